"""ResNet (He et al., CVPR 2016) for segmentation, dilated. Parameter names are torchvision's and SKD's."""

from collections.abc import Callable, Collection

import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.libs import get_norm
from segdistill.network.backbone.base import Backbone, dilate
from segdistill.network.base import Feature


def conv3x3(in_channels: int, channels: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, stride, padding=dilation, dilation=dilation, bias=False)


class ResidualBlock(nn.Module):
    """A shortcut around ``residual``, then the activation."""

    activation: str
    downsample: nn.Module

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def pre(self, x: Tensor) -> Tensor:
        """The sum before its activation."""
        return self.residual(x) + self.downsample(x)

    def activate(self, x: Tensor, inplace: bool) -> Tensor:
        return F.relu(x, inplace) if self.activation == "relu" else F.leaky_relu(x, 0.01, inplace)

    def forward(self, x: Tensor) -> Tensor:
        # In place, so that autograd keeps one map and not two.
        return self.activate(self.pre(x), inplace=True)


class BasicBlock(ResidualBlock):
    """conv3x3 - conv3x3 with a shortcut; the first has the dilation ``first``."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        first: int,
        dilation: int,
        norm: Callable[..., nn.Module],
        activation: str,
    ):
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride, first)
        self.bn1 = norm(channels, activation=activation)
        self.conv2 = conv3x3(channels, channels, dilation=dilation)
        self.bn2 = norm(channels)
        self.downsample = shortcut(in_channels, channels, stride, norm)
        self.activation = activation

    def residual(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x))))


class Bottleneck(ResidualBlock):
    """conv1x1 - conv3x3 (stride, dilation ``first``) - conv1x1 to four times the width, with a shortcut."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        first: int,
        dilation: int,
        norm: Callable[..., nn.Module],
        activation: str,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = norm(channels, activation=activation)
        self.conv2 = conv3x3(channels, channels, stride, first)
        self.bn2 = norm(channels, activation=activation)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = norm(4 * channels)
        self.downsample = shortcut(in_channels, 4 * channels, stride, norm)
        self.activation = activation

    def residual(self, x: Tensor) -> Tensor:
        return self.bn3(self.conv3(self.bn2(self.conv2(self.bn1(self.conv1(x))))))


def shortcut(in_channels: int, channels: int, stride: int, norm: Callable[..., nn.Module]) -> nn.Module:
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), norm(channels))


class ResNet(Backbone):
    """Features: ``layer1`` (stride 4) to ``layer4``, and each before its activation (``layer1.pre`` ...).

    Args:
        block: BasicBlock or Bottleneck.
        depths: blocks per layer.
        stem: "deep", three 3x3 convolutions to 128 channels as in SKD, or "plain", one of 7x7 to 64.
        norm: name of a normalisation factory in ``libs``.
        activation: "relu" as in the originals, or "leaky_relu", with which every pair of BatchNorm and activation
            can be fused in place (Rota Bulo et al., CVPR 2018).
        output_stride: 8, 16 or 32; dilation replaces the strides beyond it.
        dilation: where that begins, "after" the convolution that loses its stride, as torchvision, GluonCV and CIRKD
            have it, or "at" it.
        ceil_pool: round the size of the pooled map up.
        multi_grid: factors of the dilation in layer4, a block each; of Bottlenecks alone.
        checkpoint_blocks: recompute each block in the backward pass instead of keeping its maps.
    """

    VARIANTS = {
        "skd": {"dilation": "at", "ceil_pool": True},
        "akd": {"dilation": "at", "multi_grid": (1, 2, 4)},
    }

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        *,
        stem: str,
        norm: str = "batch_norm",
        activation: str = "relu",
        output_stride: int = 8,
        dilation: str = "after",
        ceil_pool: bool = False,
        multi_grid: tuple[int, ...] = (1, 1, 1),
        checkpoint_blocks: bool = False,
    ):
        super().__init__(checkpoint_blocks)
        if activation not in ("relu", "leaky_relu"):
            raise ValueError(f"unknown backbone activation {activation!r}; known: leaky_relu, relu")
        make_norm = get_norm(norm)
        deep = stem == "deep"
        self.conv1 = conv3x3(3, 64, stride=2) if deep else nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = make_norm(64, activation=activation)
        if deep:
            self.conv2 = conv3x3(64, 64)
            self.bn2 = make_norm(64, activation=activation)
            self.conv3 = conv3x3(64, 128)
            self.bn3 = make_norm(128, activation=activation)
        self.deep = deep
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=ceil_pool)

        in_channels = 128 if deep else 64
        self.features = {}
        groups = dilate((1, 2, 2, 2), 4, output_stride, dilation)
        for number, (depth, (stride, first, rest, reached)) in enumerate(zip(depths, groups, strict=True), 1):
            grid = multi_grid if number == 4 and block is Bottleneck else (1,) * depth
            blocks = []
            for index, factor in enumerate(grid):
                dilations = (factor * (rest if index else first), factor * rest)
                width = 64 * 2 ** (number - 1)
                blocks.append(block(in_channels, width, 1 if index else stride, *dilations, make_norm, activation))
                in_channels = width * block.expansion
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            self.features[f"layer{number}"] = Feature(in_channels, reached)
        self.features |= {f"{name}.pre": feature for name, feature in self.features.items()}

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        x = self.bn1(self.conv1(images))
        if self.deep:
            x = self.bn3(self.conv3(self.bn2(self.conv2(x))))
        x = self.maxpool(x)
        maps = {}
        for name in ("layer1", "layer2", "layer3", "layer4"):
            *blocks, last = getattr(self, name)
            for block in blocks:
                x = self.run(block, x)
            if f"{name}.pre" in wanted:
                maps[f"{name}.pre"] = x = last.pre(x)
                x = last.activate(x, inplace=False)
            else:
                x = self.run(last, x)
            if name in wanted:
                maps[name] = x
        return maps

    def norm_before(self, feature: str) -> nn.BatchNorm2d:
        """The last BatchNorm of the block whose sum is the map ``feature`` ("layer3.pre")."""
        if feature not in self.features or not feature.endswith(".pre"):
            return super().norm_before(feature)
        block = getattr(self, feature.removesuffix(".pre"))[-1]
        return block.bn3 if isinstance(block, Bottleneck) else block.bn2
