"""Aligned Xception, 65 layers (Chollet, CVPR 2017; Chen et al., ECCV 2018, Figure 4), dilated, as in AKD.

AKD adds a block's shortcut after a ReLU in place, so that every shortcut starts from the activated map; so here.
"""

from collections.abc import Callable, Collection

import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.libs import get_norm
from segdistill.network.backbone.base import Backbone, dilate
from segdistill.network.base import Feature

# Widths of the three convolutions of each block, in 20 blocks.
WIDTHS = ((128,) * 3, (256,) * 3, *((728,) * 3,) * 17, (728, 1024, 1024))
STRIDES = (2, 2, 2, *(1,) * 16, 2)
# The last block of each layer; layer4 is what three more convolutions make of the last block.
LAST = {"layer1": 1, "layer2": 2, "layer3": 19}
EXIT = (1536, 1536, 2048)


def separable(
    in_channels: int, channels: int, norm: Callable[..., nn.Module], activation: str, stride: int, dilation: int
) -> nn.Sequential:
    """Separable convolution: 3x3 depthwise, BatchNorm, 1x1, BatchNorm with ``activation``."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels, in_channels, 3, stride, padding=dilation, dilation=dilation, groups=in_channels, bias=False
        ),
        norm(in_channels),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        norm(channels, activation=activation),
    )


class Block(nn.Module):
    """Three separable convolutions and a shortcut, then ReLU."""

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, int, int],
        stride: int,
        dilations: tuple[int, int, int],
        norm: Callable[..., nn.Module],
    ):
        super().__init__()
        convolutions, channels = [], in_channels
        for width, step, dilation, activation in zip(
            widths, (1, 1, stride), dilations, ("relu", "relu", "identity"), strict=True
        ):
            convolutions.append(separable(channels, width, norm, activation, step, dilation))
            channels = width
        self.residual = nn.Sequential(*convolutions)
        self.shortcut = nn.Identity()
        if stride > 1 or channels != in_channels:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), norm(channels))
        self.channels = channels

    def pre(self, x: Tensor) -> Tensor:
        """The sum before its activation."""
        return self.residual(x) + self.shortcut(x)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.pre(x), inplace=True)


class Xception(Backbone):
    """Features: ``layer1`` (128 channels, stride 4) to ``layer4`` (2048), each before its activation too.

    Args:
        norm: name of a normalisation factory in ``libs``.
        output_stride: 8, 16 or 32; dilation replaces the strides beyond it, from the next block on.
        checkpoint_blocks: recompute each block in the backward pass instead of keeping its maps.
    """

    def __init__(self, *, norm: str = "batch_norm", output_stride: int = 8, checkpoint_blocks: bool = False):
        super().__init__(checkpoint_blocks)
        make_norm = get_norm(norm)
        self.conv1 = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        self.bn1 = make_norm(32, activation="relu")
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn2 = make_norm(64, activation="relu")

        *places, (_, _, dilation, deepest) = dilate((*STRIDES, 1), 2, output_stride, "next")
        blocks, in_channels = [], 64
        for index, (widths, (stride, _, rest, _)) in enumerate(zip(WIDTHS, places, strict=True), 1):
            middle = 4 <= index <= 19
            blocks.append(Block(in_channels, widths, stride, (rest, rest, rest if middle else 1), make_norm))
            in_channels = blocks[-1].channels
        self.blocks = nn.Sequential(*blocks)
        exits = []
        for width in EXIT:
            activation = "identity" if width == EXIT[-1] else "relu"
            exits.append(separable(in_channels, width, make_norm, activation, 1, dilation))
            in_channels = width
        self.exit = nn.Sequential(*exits)

        self.features = {name: Feature(blocks[last - 1].channels, places[last - 1][-1]) for name, last in LAST.items()}
        self.features["layer4"] = Feature(in_channels, deepest)
        self.features |= {f"{name}.pre": feature for name, feature in self.features.items()}
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        x = self.bn2(self.conv2(self.bn1(self.conv1(images))))
        maps, ends = {}, {last: name for name, last in LAST.items()}
        for index, block in enumerate(self.blocks, 1):
            name = ends.get(index)
            if f"{name}.pre" in wanted:
                maps[f"{name}.pre"] = block.pre(x)
                x = F.relu(maps[f"{name}.pre"])
            else:
                x = self.run(block, x)
            if name:
                maps[name] = x
        maps["layer4.pre"] = self.run(self.exit, x)
        maps["layer4"] = F.relu(maps["layer4.pre"])
        return maps

    def norm_before(self, feature: str) -> nn.BatchNorm2d:
        if feature not in self.features or not feature.endswith(".pre"):
            return super().norm_before(feature)
        name = feature.removesuffix(".pre")
        return self.exit[-1][-1] if name == "layer4" else self.blocks[LAST[name] - 1].residual[-1][-1]
