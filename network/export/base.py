"""What an exported file holds: the whole way from a picture to its classes, and a check that it answers as before."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.dataset.normalization import Normalization
from segdistill.network.base import SegmentationNetwork, resize

Output = Literal["classes", "logits", "probabilities", "depth"]
OUTPUTS: tuple[Output, ...] = ("classes", "logits", "probabilities", "depth")
EXAMPLE = (96, 128)  # height and width that a graph is traced with
LARGER = (160, 224)
SIZES = (EXAMPLE, (65, 97), LARGER)  # that are compared; the second is odd and smaller
# Of the pixels. A sum between two levels may round either way, and the layers after it carry that on.
INT8_TOLERANCE = 5e-2
REQUIRED = ("output", "num_classes", "classes", "palette", "counts_void", "network", "parameters")  # metadata


class Deployed(nn.Module):
    """Pictures (N, 3, H, W) uint8 RGB in; at their size classes (N, H, W) uint8, logits or probabilities (N, C, H, W)
    float32, or depth (N, 1, H, W) float32, out. Input convention and resizing are inside.

    Args:
        input_size: (height, width) that the network is shown; None: the picture's.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        normalization: Normalization,
        input_size: tuple[int, int] | None = None,
        output: Output = "classes",
    ):
        super().__init__()
        self.network, self.normalization, self.input_size, self.output = network, normalization, input_size, output

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self.logits(images))

    def answer(self, logits: Tensor) -> Tensor:
        if self.output in ("logits", "depth"):
            return logits
        return logits.softmax(1) if self.output == "probabilities" else logits.argmax(1).to(torch.uint8)

    def logits(self, images: Tensor) -> Tensor:
        """The map that is answered from; of a network of depth that."""
        feature = "depth" if self.output == "depth" else "logits"
        maps = self.network.extract(self.shown(images), frozenset({feature})).features[feature]
        return resize(maps, images.shape[2:])

    def shown(self, images: Tensor) -> Tensor:
        """What the network sees of pictures."""
        shown = self.normalization(images)
        if self.input_size:
            shown = F.interpolate(shown, self.input_size, mode="bilinear", align_corners=False)
        return shown


class ForeignFile(ValueError):
    """A file that was not exported by segdistill."""


class Runner(NamedTuple):
    """An exported file, open.

    run: maps pictures (N, 3, H, W) uint8 to the output, on as many threads as PyTorch had when it was opened. metadata:
    says what it is. runtime: the program that runs it, with its version.
    """

    run: Callable[[np.ndarray], np.ndarray]
    metadata: dict
    runtime: str


class Format(Protocol):
    """A format of files. A module of this folder."""

    SUFFIX: str
    PACKAGES: tuple[str, ...]  # to be installed
    TOLERANCE: float  # how far a logit may be off, over the greatest

    def write(self, module: Deployed, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the file; ValueError if the format cannot carry the network."""

    def read(self, path: Path) -> Runner:
        """Open a file; ValueError if it is damaged or not ours."""


class Difference(NamedTuple):
    """How an exported file differs from its network at one size: of the output over the greatest logit (None for
    classes), and the pixels whose class changed, ties aside."""

    size: tuple[int, int]
    largest: float | None
    changed: int
    pixels: int


@torch.no_grad()
def graph_of(module: Deployed) -> torch.export.ExportedProgram:
    """The graph of a module for pictures of any number and size."""
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    example = torch.zeros(2, 3, *EXAMPLE, dtype=torch.uint8)
    # Decomposing an operation in place compares all sizes as formulas: MobileNetV2's take ONNX two thirds of its time.
    in_place = [layer for layer in module.modules() if getattr(layer, "inplace", False)]
    for layer in in_place:
        layer.inplace = False
    try:
        return torch.export.export(module, (example,), dynamic_shapes={"images": sizes})
    finally:
        for layer in in_place:
            layer.inplace = True


@torch.no_grad()
def compare(module: Deployed, runner: Runner, pictures: Iterable[Tensor], tolerance: float) -> list[Difference]:
    """The differences on pictures (3, H, W) uint8. Classes that are within the tolerance of each other are a tie."""
    found = []
    for picture in pictures:
        logits = module.logits(picture[None])
        expected, given = module.answer(logits), torch.from_numpy(answer_of(runner, picture[None].numpy()))
        if given.shape != expected.shape:
            raise ValueError(f"it answers {tuple(given.shape)} where the network answers {tuple(expected.shape)}")
        greatest = logits.abs().max().item()
        largest, changed = None, given.to(torch.int64) != expected.to(torch.int64)
        if module.output != "classes":
            scale = 1.0 if module.output == "probabilities" else greatest
            largest = (given - expected).abs().max().item() / scale
            changed = given.argmax(1) != expected.argmax(1)
        best = logits.topk(min(2, logits.shape[1]), dim=1).values
        tie = best[:, 0] - best[:, -1] <= 2 * tolerance * greatest
        found.append(Difference(tuple(picture.shape[1:]), largest, int((changed & ~tie).sum()), picture[0].numel()))
    return found


def answer_of(runner: Runner, images: np.ndarray) -> np.ndarray:
    """What a runner answers. Raises ValueError whatever its runtime says."""
    try:
        return np.array(runner.run(images))
    except Exception as error:  # runtimes have no common one
        height, width = images.shape[2:]
        raise ValueError(f"{runner.runtime} fails on images of {height}x{width}: {reason_of(error)}") from None


def reason_of(error: BaseException) -> str:
    """The innermost cause of an exporter's error, its first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = f"{(str(error).strip().splitlines() or [''])[0]:.200}"
    return line if isinstance(error, ValueError) else f"{type(error).__name__}: {line}"


def sample_pictures(sizes: Sequence[tuple[int, int]] = SIZES) -> list[Tensor]:
    """Smooth random pictures (3, H, W) uint8 of these sizes, always the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = [torch.rand(1, 3, 6, 8, generator=generator) for _ in sizes]
    return [(255 * resize(maps, size)[0]).to(torch.uint8) for maps, size in zip(coarse, sizes, strict=True)]


def text_of(metadata: Mapping) -> dict[str, str]:
    """Metadata as texts, which every format can hold; ``metadata_of`` reads them."""
    return {f"segdistill.{key}": json.dumps(value) for key, value in metadata.items()}


def metadata_of(texts: Mapping[str, str], path: Path) -> dict:
    """Raises ForeignFile if the texts are not ours, ValueError if they are damaged."""
    own = {key.removeprefix("segdistill."): text for key, text in texts.items() if key.startswith("segdistill.")}
    if "output" not in own:
        raise ForeignFile(f"{path} was not exported by segdistill: its metadata say nothing of its output")
    try:
        metadata = {key: json.loads(text) for key, text in own.items()}
    except ValueError as error:
        raise ValueError(f"{path}: its metadata were edited, and are no JSON any more: {error}") from error
    absent = [key for key in REQUIRED if key not in metadata]
    if absent or metadata["output"] not in OUTPUTS or not isinstance(metadata["num_classes"], int):
        what = f"without {', '.join(absent)}" if absent else f"output {metadata['output']!r} is none of {OUTPUTS}"
        raise ValueError(f"{path}: its metadata were edited: {what}; export it again")
    return metadata
