"""Semantic segmentation: the class of every pixel, scored by mean intersection over union."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from segdistill.dataset import IGNORE_INDEX, SegmentationDataset
from segdistill.network import LoadReport, SegmentationNetwork
from segdistill.utils.classes import classes_and_colors
from segdistill.utils.losses.base import resize_labels
from segdistill.utils.losses.cross_entropy import TaskLoss
from segdistill.utils.metrics import ConfusionMatrix
from segdistill.utils.predict import class_ids
from segdistill.utils.tasks.base import Figure, Task
from segdistill.utils.visualize import colorize, overlay


class Segmentation(Task):
    """Labels are class ids, uint8, 255 for void; predictions are read from the logits."""

    name = "segmentation"
    feature = "logits"
    method = "pi"
    figures = (
        Figure("mean_iou", "mIoU"),
        Figure("pixel_accuracy", "pixel accuracy"),
        Figure("class_accuracy", "class accuracy"),
        Figure("frequency_weighted_iou", "frequency-weighted IoU"),
        Figure("mean_category_iou", "category mIoU"),
    )
    per_class = Figure("iou", "IoU")

    def num_channels(self, dataset: SegmentationDataset) -> int:
        # Images whose teacher has no classes: a student keeps a head, to be trained on labels later.
        return len(dataset.CLASSES) or 1

    def adopt(self, dataset: SegmentationDataset, network: SegmentationNetwork, report: LoadReport | None) -> None:
        dataset.CLASSES, dataset.PALETTE = classes_and_colors(network, report)

    def loss(
        self,
        network: SegmentationNetwork,
        *,
        weight: float,
        aux_weight: float | None = None,
        ohem: dict[str, float] | None = None,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        focal: float = 0.0,
        dice: float = 0.0,
        lovasz: float = 0.0,
    ) -> TaskLoss:
        """See ``TaskLoss``; the auxiliary head, where the network has one, has the weight 0.4 unless told otherwise."""
        if "logits" not in network.features:
            raise ValueError(
                f"{network.config['name']} has no classes to learn from labels: --task-weight 0 distils its features "
                "alone, and smp: builds a decoder on the same backbone "
                "(--network smp:unet --network-options encoder_name=tu-NAME)"
            )
        has_head = "aux_logits" in network.features
        if aux_weight and not has_head:
            raise ValueError(f"--aux-weight has no effect with {network.config['name']}, which has no auxiliary head")
        return TaskLoss(
            (0.4 if aux_weight is None else aux_weight) if has_head else 0.0,
            ohem,
            weight,
            class_weights=class_weights,
            label_smoothing=label_smoothing,
            focal=focal,
            dice=dice,
            lovasz=lovasz,
        )

    def scores(self, dataset: SegmentationDataset, protocol: Mapping | None = None) -> ConfusionMatrix:
        return ConfusionMatrix(len(dataset.CLASSES))

    def read(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        return class_ids(maps, size)

    def picture(self, prediction: np.ndarray, dataset: SegmentationDataset) -> np.ndarray:
        return colorize(prediction, dataset.PALETTE)

    def overlay(self, image: np.ndarray, prediction: np.ndarray, dataset: SegmentationDataset) -> np.ndarray:
        return overlay(image, prediction, dataset.PALETTE)

    def legend(self, predictions: Sequence[np.ndarray], dataset: SegmentationDataset) -> dict[str, Sequence[int]]:
        present = {i for prediction in predictions for i in np.unique(prediction).tolist()}
        known = [i for i in range(len(dataset.CLASSES)) if i in present]
        colors = {dataset.CLASSES[i]: dataset.PALETTE[i] for i in known}
        return colors | ({"void": (0, 0, 0)} if len(present) > len(known) else {})

    def encode(self, prediction: np.ndarray, dataset: SegmentationDataset) -> np.ndarray:
        return dataset.encode(prediction)

    def summary(self, scores: ConfusionMatrix, dataset: SegmentationDataset, protocol: Mapping) -> dict:
        """A class that never occurs has None; the protocol says by ``count_void`` how void pixels count."""
        count_void = protocol["count_void"]
        iou, accuracy = scores.iou(count_void), scores.class_accuracy()
        groups = [[dataset.CLASSES.index(name) for name in names] for names in dataset.CATEGORIES.values()]
        categories = scores.merged(groups).iou(count_void)
        return {
            "mean_iou": scores.mean_iou(count_void),
            "pixel_accuracy": scores.pixel_accuracy(count_void),
            "class_accuracy": accuracy.nanmean().item(),
            "frequency_weighted_iou": scores.frequency_weighted_iou(count_void),
            "mean_category_iou": categories.nanmean().item() if groups else None,
            "classes": list(dataset.CLASSES),
            "iou": none_for_nan(iou),
            "accuracy": none_for_nan(accuracy),
            "absent": [name for name, value in zip(dataset.CLASSES, iou.tolist(), strict=True) if value != value],
            "category_iou": dict(zip(dataset.CATEGORIES, none_for_nan(categories), strict=True)),
        }

    def measure(
        self, maps: Iterable[tuple[Tensor, Tensor]], dataset: SegmentationDataset, protocol: Mapping
    ) -> dict | None:
        """Also entropy, in nats, the mean over the labelled positions of the teacher's map; classes, their names, and
        iou, None for one that does not occur."""
        scores, entropies = self.scores(dataset, protocol), []
        for logits, labels in maps:
            scores.update(self.read(logits, labels.shape[1:]), labels)
            known = resize_labels(labels, logits.shape[2:]) != IGNORE_INDEX
            entropies.append(torch.special.entr(logits.softmax(1)).sum(1).cpu()[known])
        if not any(map(len, entropies)):
            return None
        return {
            **scores.figures(),
            "entropy": torch.cat(entropies).double().mean().item(),
            "classes": list(dataset.CLASSES),
            "iou": none_for_nan(scores.iou()),
        }


def none_for_nan(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
