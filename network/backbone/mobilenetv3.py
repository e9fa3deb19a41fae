"""MobileNetV3 (Howard et al., ICCV 2019), dilated. Parameter names are torchvision's, ``features`` as ``blocks``."""

from collections.abc import Callable, Collection
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.libs import get_norm
from segdistill.network.backbone.base import Backbone, dilate
from segdistill.network.base import Feature

# Kernel, width of the expansion, channels, squeeze and excitation, activation and stride of each block (Tables 1, 2).
BLOCKS = {
    "small": (
        (3, 16, 16, True, "relu", 2),
        (3, 72, 24, False, "relu", 2),
        (3, 88, 24, False, "relu", 1),
        (5, 96, 40, True, "hardswish", 2),
        (5, 240, 40, True, "hardswish", 1),
        (5, 240, 40, True, "hardswish", 1),
        (5, 120, 48, True, "hardswish", 1),
        (5, 144, 48, True, "hardswish", 1),
        (5, 288, 96, True, "hardswish", 2),
        (5, 576, 96, True, "hardswish", 1),
        (5, 576, 96, True, "hardswish", 1),
    ),
    "large": (
        (3, 16, 16, False, "relu", 1),
        (3, 64, 24, False, "relu", 2),
        (3, 72, 24, False, "relu", 1),
        (5, 72, 40, True, "relu", 2),
        (5, 120, 40, True, "relu", 1),
        (5, 120, 40, True, "relu", 1),
        (3, 240, 80, False, "hardswish", 2),
        (3, 200, 80, False, "hardswish", 1),
        (3, 184, 80, False, "hardswish", 1),
        (3, 184, 80, False, "hardswish", 1),
        (3, 480, 112, True, "hardswish", 1),
        (3, 672, 112, True, "hardswish", 1),
        (5, 672, 160, True, "hardswish", 2),
        (5, 960, 160, True, "hardswish", 1),
        (5, 960, 160, True, "hardswish", 1),
    ),
}
# The last block of each layer.
LAST = {"small": (1, 3, 8, 12), "large": (3, 6, 12, 16)}


class ConvNormAct(nn.Sequential):
    """Convolution, BatchNorm, activation ("identity", "relu" or "hardswish")."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        norm: Callable[..., nn.Module],
        activation: str,
        kernel: int = 1,
        dilation: int = 1,
        **options,
    ):
        padding = kernel // 2 * dilation
        conv = nn.Conv2d(in_channels, channels, kernel, padding=padding, dilation=dilation, bias=False, **options)
        super().__init__(conv, norm(channels, activation="relu" if activation == "relu" else "identity"))
        self.channels = channels
        self.hardswish = activation == "hardswish"

    def pre(self, x: Tensor) -> Tensor:
        """The output before a hardswish."""
        return super().forward(x)

    def forward(self, x: Tensor) -> Tensor:
        # Hardswish keeps its input for the backward pass, so that doing it in place would save nothing.
        return F.hardswish(self.pre(x)) if self.hardswish else self.pre(x)


class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation: scale each channel by a function of all channel means (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int):
        super().__init__()
        # A quarter, rounded to a multiple of 8, but not down by more than a tenth.
        squeezed = max(8, (channels // 4 + 4) // 8 * 8)
        squeezed += 8 if squeezed < 0.9 * (channels // 4) else 0
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))
        return x * F.hardsigmoid(self.fc2(squeezed))


class InvertedResidual(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise convolution, squeeze-and-excitation, 1x1 projection; a shortcut."""

    def __init__(
        self,
        in_channels: int,
        kernel: int,
        hidden: int,
        channels: int,
        squeeze: bool,
        activation: str,
        stride: int,
        dilation: int,
        norm: Callable[..., nn.Module],
    ):
        super().__init__()
        self.channels = channels
        layers = [ConvNormAct(in_channels, hidden, norm, activation)] if hidden != in_channels else []
        layers.append(ConvNormAct(hidden, hidden, norm, activation, kernel, dilation, stride=stride, groups=hidden))
        layers += [SqueezeExcitation(hidden)] if squeeze else []
        self.block = nn.Sequential(*layers, ConvNormAct(hidden, channels, norm, "identity"))
        self.shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.shortcut else self.block(x)


class MobileNetV3(Backbone):
    """Features: ``layer1`` (stride 4) to ``layer4``, which is the 1x1 convolution to 576 (small) or 960 channels.

    The first three end without activation, so that ``layer1.pre`` is ``layer1``; ``layer4.pre`` is before a hardswish.

    Args:
        size: "small" or "large".
        norm: name of a normalisation factory in ``libs``.
        output_stride: 8, 16 or 32; dilation replaces the strides beyond it, from the convolution that loses its stride.
        checkpoint_blocks: recompute each block in the backward pass instead of keeping its maps.
    """

    def __init__(
        self,
        size: str,
        *,
        norm: str = "batch_norm",
        output_stride: int = 8,
        checkpoint_blocks: bool = False,
    ):
        super().__init__(checkpoint_blocks)
        make_norm = partial(get_norm(norm), eps=1e-3, momentum=0.01)
        blocks, in_channels = [ConvNormAct(3, 16, make_norm, "hardswish", kernel=3, stride=2)], 16
        places = list(dilate((stride for *_, stride in BLOCKS[size]), 2, output_stride, "at"))
        for (*shape, _), (stride, dilation, _, _) in zip(BLOCKS[size], places, strict=True):
            blocks.append(InvertedResidual(in_channels, *shape, stride, dilation, make_norm))
            in_channels = blocks[-1].channels
        blocks.append(ConvNormAct(in_channels, 6 * in_channels, make_norm, "hardswish"))
        self.blocks = nn.Sequential(*blocks)

        self.ends = {last: f"layer{number}" for number, last in enumerate(LAST[size], 1)}
        strides = [2, *(reached for *_, reached in places), places[-1][-1]]
        self.features = {name: Feature(blocks[last].channels, strides[last]) for last, name in self.ends.items()}
        self.features |= {f"{name}.pre": feature for name, feature in self.features.items()}
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        x, maps = images, {}
        for index, block in enumerate(list(self.blocks)[:-1]):
            x = self.run(block, x)
            if index in self.ends:
                maps[self.ends[index]] = maps[f"{self.ends[index]}.pre"] = x
        maps["layer4.pre"] = self.blocks[-1].pre(x)
        maps["layer4"] = F.hardswish(maps["layer4.pre"])
        return maps

    def norm_before(self, feature: str) -> nn.BatchNorm2d:
        if feature not in self.features or not feature.endswith(".pre"):
            return super().norm_before(feature)
        (last,) = (last for last, name in self.ends.items() if name == feature.removesuffix(".pre"))
        return self.blocks[-1][1] if feature == "layer4.pre" else self.blocks[last].block[-1][1]
