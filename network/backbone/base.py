"""The contract of a backbone: the feature maps ``layer1`` ... ``layer4`` with their channels and strides."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segdistill.libs import frozen_statistics
from segdistill.network.base import Feature


class Backbone(nn.Module):
    """A backbone declares ``features`` and writes ``forward``; its constructor's keywords are its options."""

    # How a code base's backbone differs from this one, as options.
    VARIANTS: ClassVar[dict[str, dict]] = {}
    features: dict[str, Feature]

    def __init__(self, checkpoint_blocks: bool):
        super().__init__()
        self.checkpoint_blocks = checkpoint_blocks

    def forward(self, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """The maps named in ``wanted``, of images (N, 3, H, W)."""
        raise NotImplementedError

    def norm_before(self, feature: str) -> nn.BatchNorm2d:
        """The BatchNorm whose output is (or is added into) the map ``feature``, a map before its activation.

        Raises:
            ValueError: there is none.
        """
        raise ValueError(f"{type(self).__name__} has no BatchNorm before {feature}")

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        """``block(x)``; with ``checkpoint_blocks`` its maps are recomputed in the backward pass instead of kept."""
        if not (self.checkpoint_blocks and self.training):
            return block(x)
        if torch.compiler.is_compiling():  # it traces the block once and takes no context_fn
            return checkpoint(block, x, use_reentrant=False)
        # The recomputation must not count the batch a second time in BatchNorm's running statistics.
        return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), frozen_statistics(block)))


def dilate(strides: Iterable[int], reached: int, output_stride: int, begin: str) -> Iterator[tuple[int, int, int, int]]:
    """Replace the strides beyond an output stride by dilation.

    Args:
        strides: of each group of blocks.
        reached: the stride before the first group.
        output_stride: 8, 16 or 32: larger strides are not reached.
        begin: where the dilation that replaces a stride begins: "at" the convolution that loses the stride, "after"
            it, or in the "next" group.

    Returns:
        Of each group its stride, the dilations of its first (strided) convolution and of all others, and the stride
        reached after it.

    Raises:
        ValueError: another output stride.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"unknown output stride {output_stride}; known: 8, 16, 32")
    dilation = 1
    for stride in strides:
        before = dilation
        if reached * stride > output_stride:
            dilation *= stride
            stride = 1
        reached *= stride
        yield stride, dilation if begin == "at" else before, before if begin == "next" else dilation, reached
