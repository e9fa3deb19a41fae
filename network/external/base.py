"""Shared code of the adapters: what size of image a model takes, channels and strides of its maps, a layer's output."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segdistill.dataset import Normalization
from segdistill.network.base import Feature, SegmentationNetwork, resize

T = TypeVar("T")
# The side of the images that a model without a size of its own is measured with.
USUAL_SIDE = 256
STAGES = ("layer1", "layer2", "layer3", "layer4")
# What the code of another library raises for an image that it cannot take, or for being no network of images at all.
FOREIGN_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
# Multiples that the sides of an image must be of, in models with windows or with sums of maps of several strides.
MULTIPLES = (2, 4, 8, 16, 32, 64, 128, 224, 256)


class ExternalNetwork(SegmentationNetwork):
    """A model of another library, whose maps are measured: a subclass writes ``library_maps`` and calls ``settle``.

    Images are resized to the nearest multiple of ``multiple``, or to ``only_side`` squared if the model takes no other
    size. Where that is more than half of the deepest stride, the maps are resized back to the declared strides.
    """

    multiple: int = 1
    only_side: int | None = None

    def library_maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        """At least the maps named in ``wanted``, of images whose size the model takes."""
        raise NotImplementedError

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        maps = self.library_maps(self.fit(images), wanted)
        return {name: self.back(maps[name], name, images) for name in wanted}

    def fit(self, images: Tensor) -> Tensor:
        """Images at the nearest size that the model takes."""
        if self.only_side:
            return resize(images, (self.only_side, self.only_side))
        return resize_to_multiple(images, self.multiple)

    def back(self, maps: Tensor, name: str, images: Tensor) -> Tensor:
        """Maps of resized images at the declared stride of the images as they were."""
        if not self.only_side and self.multiple <= max(self.strides.values()):
            return maps
        return resize(maps, [max(1, round(side / self.strides[name])) for side in images.shape[2:]])

    def settle(self, source: str, names: Iterable[str], side: int, multiple: int = 1) -> None:
        """Find what sizes the model takes, and measure the maps ``names`` at the first multiple from ``side``, its own.

        Raises:
            ValueError: it gives no such maps of an image of its own size; begins with ``source``.
        """
        names = frozenset(names)
        self.multiple, self.only_side, self.features = try_out(
            self, lambda shadow, device: sizes_of(shadow, device, names, side, multiple), side, source
        )
        self.strides = {name: feature.stride for name, feature in self.features.items()}


def sizes_of(
    network: ExternalNetwork, device: str, names: frozenset[str], side: int, multiple: int
) -> tuple[int, int | None, dict[str, Feature]]:
    """The multiple of the sides that a network takes, or the only side, and its maps ``names``: see ``settle``."""
    at_side = measure(network, device, names, side)
    for step in [multiple, *(step for step in MULTIPLES if step > multiple and step % multiple == 0)]:
        try:
            features = measure(network, device, names, up_to(side, math.lcm(step, 64)))  # of no rounded map
            # Odd sizes, one of them far from square: a model that squares its images is of one size too.
            for size in ((side * 5 // 4 + 3, side * 3 // 4 + 5), (side * 5 // 8 + 1, side * 2 + 1)):
                sizes = [up_to(length, step) for length in size]
                check_strides(network.library_maps(blank(sizes, device), names), features, sizes)
        except FOREIGN_ERRORS:
            continue
        return step, None, features
    return 1, side, at_side


def try_out(network: nn.Module, run: Callable[[nn.Module, str], T], side: int, source: str) -> T:
    """What ``run(copy, device)`` returns of a copy of ``network`` in evaluation mode, to try images on.

    The device is meta, where only shapes are computed, or the CPU for a model that reads values in between; a network
    that is built on the meta device has none.

    Raises:
        ValueError: ``run`` fails on both; begins with ``source``.
    """
    for device in ("meta",) if next(network.parameters()).is_meta else ("meta", "cpu"):
        shadow = copy.deepcopy(network).eval().to(device)
        try:
            with torch.no_grad(), torch.device(device), OnlyShapes() if device == "meta" else nullcontext():
                return run(shadow, device)
        except FOREIGN_ERRORS as error:
            reason = error
    text = f"{type(reason).__name__}: {' '.join(str(reason).split())[:200]}"
    raise ValueError(f"{source} gives no maps of an image of {side}x{side}: {text}") from reason


class OnlyShapes(TorchFunctionMode):
    """What keeps the shape of a map, whatever its size, is left out: on the meta device PyTorch computes it in Python,
    which takes most of the time."""

    LEFT_OUT = (F.batch_norm, F.group_norm, F.relu, F.relu6, F.hardswish, F.hardsigmoid, F.gelu)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in self.LEFT_OUT and args:
            return args[0]
        return function(*args, **(kwargs or {}))


def measure(network: ExternalNetwork, device: str, names: Iterable[str], side: int) -> dict[str, Feature]:
    """Channels and stride of the maps ``names``, from an image of ``side`` squared."""
    maps = network.library_maps(blank((side, side), device), frozenset(names))
    if flat := [name for name in names if maps[name].dim() != 4]:
        raise ValueError(f"{flat[0]} is no map: {tuple(maps[flat[0]].shape)}")
    return {name: Feature(maps[name].shape[1], max(1, round(side / maps[name].shape[2]))) for name in sorted(names)}


def check_strides(maps: dict[str, Tensor], features: dict[str, Feature], size: Sequence[int]) -> None:
    """Raise ValueError if maps of an image of ``size`` have not the measured strides."""
    for name, feature in features.items():
        if any(abs(a - b / feature.stride) > 1.5 for a, b in zip(maps[name].shape[2:], size, strict=True)):
            raise ValueError(f"{name} is {tuple(maps[name].shape[2:])} of an image of {tuple(size)}")


def blank(size: Sequence[int], device: str) -> Tensor:
    return torch.zeros(1, 3, *size, device=device)


def up_to(side: int, step: int) -> int:
    """The least multiple of ``step`` that is not below ``side``."""
    return -(-side // step) * step


def number_stages(stages: list) -> dict[str, object]:
    """The last four of a backbone's stages by name; the deepest is always layer4."""
    stages = stages[-len(STAGES) :]
    return dict(zip(STAGES[-len(stages) :], stages, strict=True))


def quarters(depth: int) -> dict[str, int]:
    """The last of ``depth`` blocks in each quarter of a plain ViT, by the name of a stage."""
    return {name: max(depth * quarter // 4 - 1, 0) for quarter, name in enumerate(STAGES, 1)}


def resize_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Images (N, 3, H, W) resized so that both sides are the nearest multiple of ``multiple``."""
    return resize(images, [max(round(side / multiple), 1) * multiple for side in images.shape[2:]])


def convention(channels: str, mean: Sequence[float], std: Sequence[float], greatest: float = 1.0) -> Normalization:
    """The convention whose mean and std are of values 0..``greatest``."""
    # Rounded, so that the usual one equals ours, not all but the last bit.
    mean, std = (tuple(round(255 / greatest * value, 6) for value in values) for values in (mean, std))
    return Normalization(channels, mean, std)


@contextmanager
def watch(layer: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Context manager: a dictionary that receives the input (``context``) and output (``logits``) of ``layer``."""
    seen = {}

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        seen.update(context=inputs[0], logits=output)

    handle = layer.register_forward_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def outputs_of(*modules: nn.Module) -> Iterator[tuple[list, ...]]:
    """Context manager: for each of ``modules`` a list that receives its outputs."""
    seen = tuple([] for _ in modules)
    handles = [
        module.register_forward_hook(lambda _, __, output, found=found: found.append(output))
        for module, found in zip(modules, seen, strict=True)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
