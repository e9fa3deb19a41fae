"""Shared code of the adapters: channels and strides of feature maps, resizing of images, the output of a layer."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segdistill.dataset import Normalization
from segdistill.network.base import Feature, SegmentationNetwork, resize

STAGES = ("layer1", "layer2", "layer3", "layer4")


def measure(network: SegmentationNetwork, names: Iterable[str], side: int = 256) -> dict[str, Feature]:
    """Channels and stride of the maps ``names``, from an image of side ``side`` on the meta device."""
    shadow = copy.deepcopy(network).to("meta").eval()
    maps = shadow.maps(torch.empty(1, 3, side, side, device="meta"), frozenset(names))
    return {name: Feature(maps[name].shape[1], round(side / maps[name].shape[2])) for name in names}


def number_stages(stages: list) -> dict[str, object]:
    """The last four of a backbone's stages by name; the deepest is always layer4."""
    stages = stages[-len(STAGES) :]
    return dict(zip(STAGES[-len(stages) :], stages, strict=True))


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
