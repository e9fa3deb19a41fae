"""An exported file as a network, so that eval.py and test.py score and draw it as any other."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segdistill.dataset.depth import DepthRange
from segdistill.dataset.normalization import Normalization
from segdistill.libs.files import sha256_of
from segdistill.network.base import Feature, SegmentationNetwork
from segdistill.network.export import open_exported
from segdistill.network.export.base import answer_of
from segdistill.network.weights.checkpoint import LoadReport

RAW = Normalization("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # pictures as they are: 0..255


class ExportedNetwork(SegmentationNetwork):
    """Runs an exported file on the CPU. Images are pictures, 0..255 in float32; logits have their size.

    A file that answers classes gives logits of 1 for the class and 0 for the others.
    """

    normalization = RAW

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        self.path = path
        self.runner = open_exported(path)
        metadata = self.runner.metadata
        self.num_classes = metadata["num_classes"]
        self.classes = metadata["classes"] and tuple(metadata["classes"])
        self.depth = DepthRange(*metadata["depth"]) if metadata.get("depth") else None
        self.features = {"depth": Feature(1, 1)} if self.depth else {"logits": Feature(self.num_classes, 1)}
        self.config = {"name": metadata["network"], "num_classes": self.num_classes}
        self.place = torch.nn.Parameter(torch.empty(0), requires_grad=False)  # predictors ask where a network is

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        answer = torch.from_numpy(self.answer(images.round().to(torch.uint8).contiguous().cpu().numpy()))
        if self.depth:
            return {"depth": answer.to(images.device)}
        if self.runner.metadata["output"] == "classes":
            answer = torch.nn.functional.one_hot(answer.long(), self.num_classes).movedim(3, 1).float()
        elif self.runner.metadata["output"] == "probabilities":
            answer = answer.clamp(min=torch.finfo(answer.dtype).tiny).log()
        return {"logits": answer.to(images.device)}

    def answer(self, images: np.ndarray) -> np.ndarray:
        """What the file answers. Raises ValueError for sizes that it refuses, and if it was edited."""
        number, _, height, width = images.shape
        try:
            answer = answer_of(self.runner, images)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error
        is_classes, channels = self.runner.metadata["output"] == "classes", 1 if self.depth else self.num_classes
        expected = (number, height, width) if is_classes else (number, channels, height, width)
        if answer.shape != expected or (is_classes and answer.max() >= self.num_classes):
            raise ValueError(
                f"{self.path} answers {answer.shape} to images of {height}x{width}, where {expected} of "
                f"{self.num_classes} classes are right: it was edited; export it again"
            )
        return answer


def load_exported(path: str | os.PathLike) -> tuple[ExportedNetwork, LoadReport]:
    """An exported file as a network, and what it says of itself. Raises: as ``open_exported``."""
    network = ExportedNetwork(path)
    metadata = network.runner.metadata
    report = LoadReport(
        f"exported for {Path(path).suffix}",
        used=[],
        skipped=[],
        missing=[],
        normalization=RAW,
        sha256=sha256_of(path),
        config=network.config,
        classes=network.classes,
        palette=metadata["palette"] and tuple(map(tuple, metadata["palette"])),
        counts_void=metadata["counts_void"],
    )
    return network, report


def count_parameters(network: SegmentationNetwork) -> int:
    """Of an exported file, the parameters of its network."""
    if isinstance(network, ExportedNetwork):
        return network.runner.metadata["parameters"]
    return sum(parameter.numel() for parameter in network.parameters())
