"""The contract of a task: its loss on labels, its scores, and how a prediction becomes a picture or a file.

Code outside this folder never tests a task's name: a data set is opened for a task, and ``task_of`` returns it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from segdistill.dataset import SegmentationDataset
from segdistill.network import LoadReport, SegmentationNetwork


class Figure(NamedTuple):
    """A score of an evaluation: key in JSON files, displayed name, unit, and which direction is better."""

    key: str
    name: str
    unit: str = "%"  # a share in 0..1 is shown in %
    greater_is_better: bool = True

    @property
    def title(self) -> str:
        """ "mIoU (%)"."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def factor(self) -> int:
        """From the stored number to the shown one."""
        return 100 if self.unit == "%" else 1

    def text(self, value: float | None, sign: str = "") -> str:
        """0.61383 as "61.38" in %, else as "0.6138"; with sign="+" as "+61.38"; None as "-"."""
        if value is None:
            return "-"
        return f"{self.factor * value:{sign}{'.2f' if self.unit == '%' else '.4g'}}"

    def is_better(self, value: float, other: float | None) -> bool:
        """Whether ``value`` is better than ``other``, or than nothing (None); NaN never is."""
        if other is None:
            return value == value
        return value > other if self.greater_is_better else value < other

    def gain(self, value: float, other: float) -> float:
        """How much better ``other`` is: the difference of shares, or the share by which an error is smaller."""
        return other - value if self.greater_is_better else (value - other) / value


class Scores(Protocol):
    """The counts of an evaluation, accumulated over its images."""

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count predictions (N, H, W), as ``Task.read`` makes them, against labels (N, H, W)."""

    def reduce(self, device: torch.device | str) -> None:
        """Add up over all processes; ``device`` is where the process group communicates."""

    def num_labelled(self) -> int:
        """Labelled pixels so far."""

    def figures(self) -> dict[str, float]:
        """The figures to watch in training, by their keys; the primary one is among them."""

    def best_constant(self) -> float:
        """The primary figure of the best constant prediction, the same at every pixel: a teacher has to beat it."""


class Task(ABC):
    """A task by its name in ``TASKS``; a data set lists the names of those that it has labels for."""

    name: ClassVar[str]
    feature: ClassVar[str]  # the network's feature map that predictions are read from: "logits"
    figures: ClassVar[tuple[Figure, ...]]  # of an evaluation; the first is the primary one
    method: ClassVar[str] = "mimic"  # that teaches on images without labels, unless another is asked for
    scale_labels: ClassVar[bool] = False  # whether labels fall as an image is enlarged: see ``RandomCrop``
    per_class: ClassVar[Figure | None] = None  # a list in an evaluation, a share in 0..1 for each of its "classes"

    @property
    def primary(self) -> Figure:
        """The figure that chooses the best checkpoint, and by which groups of runs are compared."""
        return self.figures[0]

    @abstractmethod
    def num_channels(self, dataset: SegmentationDataset) -> int:
        """Channels of the feature map ``feature``."""

    def head(self, dataset: SegmentationDataset) -> dict:
        """Keywords of ``build_network`` besides the channels, for a student that answers in this task."""
        return {}

    def protocol(self, dataset: SegmentationDataset, network: SegmentationNetwork) -> dict:
        """The task's own part of an evaluation's protocol, for a network; plain data, for ``scores``.

        Its keyword-only parameters are flags of eval.py.
        """
        return {}

    def adopt(self, dataset: SegmentationDataset, network: SegmentationNetwork, report: LoadReport | None) -> None:
        """Give images without labels the meaning of a teacher's answers: its classes and colours, say.

        Raises:
            ValueError: it does not answer in this task.
        """
        raise ValueError(f"--task {self.name} learns from labels alone")

    def limits(self, network: SegmentationNetwork) -> tuple[float, float] | None:
        """The ends of what a student can answer with: labels beyond teach it nothing. None: there are none."""
        return None

    @abstractmethod
    def loss(self, network: SegmentationNetwork, *, weight: float) -> nn.Module:
        """The loss on labels of a student: a module (output, batch) -> scalar with ``name``, ``weight`` and ``wanted``,
        the features that it reads.

        A task's own settings are further keyword-only parameters.

        Raises:
            ValueError: settings that do not suit the network.
        """

    @abstractmethod
    def scores(self, dataset: SegmentationDataset, protocol: Mapping | None = None) -> Scores:
        """Empty scores, counted by a protocol of eval.py; None for the usual one."""

    @abstractmethod
    def read(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        """The prediction at each pixel, (N, H, W) on the CPU, from feature maps (N, C, h, w) resized to ``size``."""

    @abstractmethod
    def picture(self, prediction: np.ndarray, dataset: SegmentationDataset) -> np.ndarray:
        """A prediction or a label (H, W) as a picture (H, W, 3) uint8."""

    def overlay(self, image: np.ndarray, prediction: np.ndarray, dataset: SegmentationDataset) -> np.ndarray:
        """The image (H, W, 3) uint8 with the picture of a prediction over it."""
        return (image // 2 + self.picture(prediction, dataset) // 2).astype(np.uint8)

    def legend(self, predictions: Sequence[np.ndarray], dataset: SegmentationDataset) -> dict[str, Sequence[int]]:
        """Name and colour (RGB, 0..255) of what occurs in the pictures of ``predictions``."""
        return {}

    def scale(self, dataset: SegmentationDataset) -> dict[str, Sequence[int]]:
        """Name and colour of some values of a picture, to be shown beside it; empty where the legend has them."""
        return {}

    def error(self, prediction: np.ndarray, label: np.ndarray, dataset: SegmentationDataset) -> np.ndarray | None:
        """How wrong a prediction (H, W) is at each pixel, as a picture (H, W, 3) uint8; None: the two tell."""
        return None

    @abstractmethod
    def encode(self, prediction: np.ndarray, dataset: SegmentationDataset) -> np.ndarray:
        """A prediction (H, W) as the pixels of an image file."""

    def summary(self, scores: Scores, dataset: SegmentationDataset, protocol: Mapping) -> dict:
        """The scores in evaluation.json, as plain data; contains at least ``figures``."""
        return scores.figures()

    def measure(
        self, maps: Iterable[tuple[Tensor, Tensor]], dataset: SegmentationDataset, protocol: Mapping
    ) -> dict | None:
        """Scores for teacher.json, from teacher maps (1, C, h, w) of training samples with their labels (1, H, W).

        Returns:
            Plain data, at least ``Scores.figures``; None if nothing is labelled.
        """
        scores = self.scores(dataset, protocol)
        for feature_map, labels in maps:
            scores.update(self.read(feature_map, labels.shape[1:]), labels)
        return scores.figures() if scores.num_labelled() else None
