"""Segmentation metrics from one integer confusion matrix."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from segdistill.utils.distributed import sum_over_processes


class ConfusionMatrix:
    """Counts of (truth, prediction) over any number of images.

    ``matrix`` is int64 (C + 1, C + 1), rows the truth. The last row holds void pixels (labels outside 0..C-1, such as
    255), the last column predictions that are none of the C classes (a released network that was trained with void as
    a class): those are errors, never ignored. ValueError for more than 255 classes.
    """

    def __init__(self, num_classes: int):
        if num_classes > 255:
            raise ValueError(f"labels are 8-bit: {num_classes} classes are more than 255")
        self.num_classes = num_classes
        self.matrix = torch.zeros(num_classes + 1, num_classes + 1, dtype=torch.int64)

    def update(self, predictions: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> None:
        """Count integer maps of equal shape.

        Raises:
            ValueError: shapes differ.
        """
        predictions, labels = torch.as_tensor(predictions), torch.as_tensor(labels)
        if predictions.shape != labels.shape:
            raise ValueError(f"predictions {tuple(predictions.shape)} and labels {tuple(labels.shape)} differ in shape")
        side = self.num_classes + 1
        rows, columns = (self._fold(x) for x in (labels.to(predictions.device), predictions))
        narrow = torch.int16 if side**2 < 2**15 else torch.int32  # three times as fast as int64
        self.matrix += torch.bincount(rows.to(narrow) * side + columns, minlength=side**2).view(side, side).cpu()

    def _fold(self, values: Tensor) -> Tensor:
        if values.dtype != torch.uint8:
            values = values.clamp(-1, self.num_classes).to(torch.uint8)  # -1 becomes 255
        return values.flatten().clamp(max=self.num_classes)

    def merged(self, groups: Sequence[Sequence[int]]) -> "ConfusionMatrix":
        """The matrix of categories, each a group of classes; a class of no group counts as void."""
        category_of = torch.full((self.num_classes + 1,), len(groups))
        for category, classes in enumerate(groups):
            category_of[list(classes)] = category
        merged = ConfusionMatrix(len(groups))
        by_row = torch.zeros(len(groups) + 1, self.num_classes + 1, dtype=torch.int64)
        by_row.index_add_(0, category_of, self.matrix)
        merged.matrix.index_add_(1, category_of, by_row)
        return merged

    def reduce(self, device: torch.device | str = "cpu") -> None:
        """Add up the matrices of all processes; ``device`` is where the process group communicates."""
        self.matrix = sum_over_processes(self.matrix.to(device)).cpu()

    def _counts(self, count_void: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Per class: true positives, pixels of the class, pixels predicted as the class."""
        matrix = self.matrix.double()
        truth = matrix[:-1].sum(1)
        predicted = (matrix if count_void else matrix[:-1]).sum(0)[:-1]
        return matrix.diagonal()[:-1], truth, predicted

    def iou(self, count_void: bool = False) -> Tensor:
        """Intersection over union, float64 (C,); NaN for a class absent from both truth and prediction.

        With ``count_void``, what is predicted on void pixels counts as false positives (ESPNet's paper).
        """
        hits, truth, predicted = self._counts(count_void)
        return hits / (truth + predicted - hits)

    def mean_iou(self, count_void: bool = False) -> float:
        """Mean over the classes that occur."""
        return self.iou(count_void).nanmean().item()

    def frequency_weighted_iou(self, count_void: bool = False) -> float:
        """Mean IoU, each class weighted by its share of the labelled pixels."""
        truth = self.matrix[:-1].sum(1).double()
        return (truth * self.iou(count_void)).nansum().div(truth.sum()).item()

    def best_constant(self) -> float:
        """The highest mIoU that calling every pixel by one class gives: its share of the pixels, over the classes."""
        truth = self.matrix[:-1].sum(1).double()
        return (truth.max() / truth.sum() / (truth > 0).sum()).item()

    def num_labelled(self) -> int:
        """Pixels whose truth is a class."""
        return int(self.matrix[:-1].sum())

    def figures(self) -> dict[str, float]:
        """The figures to watch in training; see ``segdistill.utils.tasks.Scores``."""
        return {"mean_iou": self.mean_iou(), "pixel_accuracy": self.pixel_accuracy()}

    def class_accuracy(self) -> Tensor:
        """Recall, float64 (C,); NaN for a class absent from the truth."""
        hits, truth, _ = self._counts(False)
        return hits / truth

    def pixel_accuracy(self, count_void: bool = False) -> float:
        """Share of right pixels among the labelled ones, or among all of them with ``count_void``."""
        hits, truth, _ = self._counts(False)
        return (hits.sum() / (self.matrix.sum() if count_void else truth.sum())).item()
