"""The teacher: a network that can answer and cannot learn."""

import os

import torch
from torch import Tensor, nn

from segdistill.dataset import Normalization, SegmentationDataset
from segdistill.network import SegmentationOutput
from segdistill.utils.checkpoint import LoadReport, load_network
from segdistill.utils.evaluate import evaluate


class Teacher(nn.Module):
    """A frozen network behind its own input convention.

    Frozen by construction: it has no gradient, stays in eval mode whatever ``train()`` says, and shows no parameters,
    buffers or submodules, so no optimizer, DistributedDataParallel or checkpoint can hold it.

    Args:
        network: any segmentation network; moved to ``device``.
        normalization: the convention the network was trained with.
        student_normalization: the convention of the batches that it will be given.
    """

    def __init__(
        self,
        network: nn.Module,
        normalization: Normalization,
        student_normalization: Normalization,
        device: torch.device | str = "cpu",
        memory_format: torch.memory_format = torch.contiguous_format,
        report: LoadReport | None = None,
        source: str | None = None,
    ):
        super().__init__()
        network = network.to(device, memory_format=memory_format).eval().requires_grad_(False)
        self._hidden = (network,)  # a tuple, so that nn.Module does not register it
        self.normalization, self.student_normalization = normalization, student_normalization
        self.memory_format, self.report, self.source = memory_format, report, source

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike, student_normalization: Normalization, **options) -> "Teacher":
        """The network that a file describes. Raises: as ``segdistill.utils.checkpoint.load_network``."""
        network, report = load_network(path)
        return cls(network, report.normalization, student_normalization, report=report, source=str(path), **options)

    @property
    def network(self) -> nn.Module:
        return self._hidden[0]

    @property
    def num_classes(self) -> int:
        return self.network.num_classes

    @property
    def feature_channels(self) -> dict[str, int]:
        return self.network.feature_channels

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: Tensor, features: tuple[str, ...] = ()) -> SegmentationOutput:
        """Logits and features for a batch (N, 3, H, W) in the student's convention."""
        batch = self.student_normalization.convert(batch, self.normalization)
        return self.network(batch.contiguous(memory_format=self.memory_format), features=features, aux=False)

    def verify(self, dataset: SegmentationDataset, num_images: int = 8) -> dict:
        """Measure the teacher on evenly spaced labelled images before it is believed.

        Returns:
            file, family, sha256, num_classes, num_images and mean_iou (0..1).

        Raises:
            ValueError: the class count is not the data set's, or the teacher does no better than calling every pixel
                by one class, which scores at most 1 / C.
        """
        expected = len(dataset.CLASSES)
        if self.num_classes != expected:
            raise ValueError(
                f"teacher {self.source} has {self.num_classes} classes, {type(dataset).__name__} has {expected}: "
                "give a teacher trained on the same classes"
            )
        num_images = min(num_images, len(dataset))
        indices = [i * len(dataset) // num_images for i in range(num_images)]
        mean_iou = evaluate(self.network, dataset, self.normalization, indices).mean_iou()
        if not mean_iou > 1 / expected:
            raise ValueError(
                f"teacher {self.source} scores {100 * mean_iou:.2f} mIoU on {num_images} images of the "
                f"{dataset.split} split, no better than one class everywhere: is it trained, and for these classes?"
            )
        return {
            "file": self.source,
            "family": self.report.family if self.report else None,
            "sha256": self.report.sha256 if self.report else None,
            "num_classes": self.num_classes,
            "num_images": num_images,
            "mean_iou": mean_iou,
        }
