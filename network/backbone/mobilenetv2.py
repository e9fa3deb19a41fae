"""MobileNetV2 (Sandler et al., CVPR 2018), dilated. Parameter names are torchvision's, ``features`` as ``blocks``."""

from collections.abc import Callable, Collection

import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.libs import InPlaceABN, get_norm
from segdistill.network.backbone.base import Backbone, dilate
from segdistill.network.base import Feature

# Expansion, channels, blocks and stride of each group (Table 2).
GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
# The last block of each layer; the next one expands the layer's map.
LAST = {"layer1": 3, "layer2": 6, "layer3": 13, "layer4": 17}


def conv_norm(
    in_channels: int, channels: int, norm: Callable[..., nn.Module], kernel: int = 1, **options
) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, kernel, bias=False, **options), norm(channels))


class InvertedResidual(nn.Module):
    """Inverted residual: 1x1 expansion, 3x3 depthwise, 1x1 projection without activation; a shortcut."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        expansion: int,
        stride: int,
        dilation: int,
        norm: Callable[..., nn.Module],
        pad_first: bool,
    ):
        super().__init__()
        hidden = expansion * in_channels
        self.border = dilation if pad_first else 0
        spread = {"stride": stride, "dilation": dilation, "padding": dilation - self.border, "groups": hidden}
        self.conv = nn.Sequential(
            *([conv_norm(in_channels, hidden, norm)] if expansion > 1 else []),
            conv_norm(hidden, hidden, norm, kernel=3, **spread),
            nn.Conv2d(hidden, channels, 1, bias=False),
            norm(channels),
        )
        self.shortcut = stride == 1 and in_channels == channels
        self.inplace = not isinstance(self.conv[-1], InPlaceABN)  # whose backward pass needs its output

    def surround(self, x: Tensor) -> Tensor:
        return F.pad(x, [self.border] * 4) if self.border else x

    def expand(self, x: Tensor) -> Tensor:
        """The expansion before its activation, with the border of ``pad_first``."""
        return self.conv[0](self.surround(x))

    def reduce(self, x: Tensor, expanded: Tensor) -> Tensor:
        """The rest of the block: its output, given its input and the activated expansion."""
        *_, depthwise, project, norm = self.conv
        out = norm(project(F.relu6(depthwise(expanded), self.inplace)))
        return x + out if self.shortcut else out

    def forward(self, x: Tensor) -> Tensor:
        if len(self.conv) == 3:  # no expansion
            return self.reduce(x, self.surround(x))
        return self.reduce(x, F.relu6(self.expand(x), self.inplace))


class MobileNetV2(Backbone):
    """Features: ``layer1`` (stride 4, 24 channels) to ``layer4`` (320 channels).

    A layer ends without activation, so that ``layer1.pre`` is ``layer1``. ``layer1.expanded.pre`` (144 channels),
    ``layer2.expanded.pre`` (192) and ``layer3.expanded.pre`` (576) are the expansions of these maps in the block that
    follows, before their activation, which AKD and Overhaul (Heo et al., ICCV 2019) distil.

    Args:
        norm: name of a normalisation factory in ``libs``.
        output_stride: 8, 16 or 32; dilation replaces the strides beyond it.
        dilation: where that begins: "at" the convolution that loses its stride, "after" it, as in CIRKD, or in the
            "next" group of blocks.
        pad_first: surround a block's input with zeros, not what its 3x3 convolution reads; along the border that
            convolution sees the expansion of the zeros.
        checkpoint_blocks: recompute each block in the backward pass instead of keeping its maps.
    """

    VARIANTS = {"akd": {"dilation": "next", "pad_first": True}}

    def __init__(
        self,
        *,
        norm: str = "batch_norm",
        output_stride: int = 8,
        dilation: str = "after",
        pad_first: bool = False,
        checkpoint_blocks: bool = False,
    ):
        super().__init__(checkpoint_blocks)
        make_norm = get_norm(norm)
        blocks, strides, in_channels = [conv_norm(3, 32, make_norm, kernel=3, stride=2, padding=1)], [2], 32
        groups = dilate((stride for *_, stride in GROUPS), 2, output_stride, dilation)
        for (expansion, channels, count, _), (stride, first, rest, reached) in zip(GROUPS, groups, strict=True):
            for index in range(count):
                place = (1, rest) if index else (stride, first)
                blocks.append(InvertedResidual(in_channels, channels, expansion, *place, make_norm, pad_first))
                strides.append(reached)
                in_channels = channels
        self.blocks = nn.Sequential(*blocks)
        self.inplace = blocks[-1].inplace

        self.features = {}
        for name, last in LAST.items():
            shape = Feature(blocks[last].conv[-2].out_channels, strides[last])
            self.features |= {name: shape, f"{name}.pre": shape}
            if last + 1 < len(blocks):
                expanded = blocks[last + 1].conv[0][0].out_channels
                self.features[f"{name}.expanded.pre"] = Feature(expanded, shape.stride)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        x = F.relu6(self.blocks[0](images), self.inplace)
        maps, ends = {}, {last: name for name, last in LAST.items()}
        for index, block in enumerate(list(self.blocks)[1:], 1):
            expansion = f"{ends.get(index - 1)}.expanded.pre"
            if expansion in wanted:
                expanded = block.expand(x)
                maps[expansion] = F.pad(expanded, [-block.border] * 4)
                x = block.reduce(x, F.relu6(expanded))
            else:
                x = self.run(block, x)
            if index in ends:
                maps[ends[index]] = maps[f"{ends[index]}.pre"] = x
        return maps

    def norm_before(self, feature: str) -> nn.BatchNorm2d:
        if feature not in self.features or not feature.endswith(".pre"):
            return super().norm_before(feature)
        last = LAST[feature.partition(".")[0]]
        return self.blocks[last + 1].conv[0][1] if ".expanded" in feature else self.blocks[last].conv[-1]
