"""ResNet for segmentation: output stride 8 (dilated layer3 and layer4), parameter names of torchvision and SKD."""

from collections.abc import Callable, Collection
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segdistill.libs import frozen_statistics, get_norm
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
    """conv3x3 - conv3x3 with a shortcut; both convolutions are dilated."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        dilation: int,
        norm: Callable[..., nn.Module],
        activation: str,
    ):
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride, dilation)
        self.bn1 = norm(channels, activation=activation)
        self.conv2 = conv3x3(channels, channels, dilation=dilation)
        self.bn2 = norm(channels)
        self.downsample = shortcut(in_channels, channels, stride, norm)
        self.activation = activation

    def residual(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x))))


class Bottleneck(ResidualBlock):
    """conv1x1 - conv3x3 (stride, dilation) - conv1x1 to four times the width, with a shortcut."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        dilation: int,
        norm: Callable[..., nn.Module],
        activation: str,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = norm(channels, activation=activation)
        self.conv2 = conv3x3(channels, channels, stride, dilation)
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


class ResNet(nn.Module):
    """Images (N, 3, H, W) to the maps ``layer1`` (stride 4) and ``layer2``, ``layer3``, ``layer4`` (stride 8).

    Each is a feature, and so is each before its activation (``layer1.pre`` ...).

    Args:
        block: BasicBlock or Bottleneck.
        depths: blocks per layer.
        stem: "deep", three 3x3 convolutions to 128 channels as in SKD, or "plain", one of 7x7 to 64.
        norm: name of a normalisation factory in ``libs``.
        activation: "relu" as in the originals, or "leaky_relu", with which every pair of BatchNorm and activation
            can be fused in place (Rota Bulo et al., CVPR 2018).
        checkpoint_blocks: recompute each block in the backward pass instead of keeping its maps.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        stem: str = "deep",
        norm: str = "batch_norm",
        activation: str = "relu",
        checkpoint_blocks: bool = False,
    ):
        super().__init__()
        if activation not in ("relu", "leaky_relu"):
            raise ValueError(f"unknown backbone activation {activation!r}; known: leaky_relu, relu")
        make_norm = get_norm(norm)
        self.checkpoint_blocks = checkpoint_blocks
        deep = stem == "deep"
        self.conv1 = conv3x3(3, 64, stride=2) if deep else nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = make_norm(64, activation=activation)
        if deep:
            self.conv2 = conv3x3(64, 64)
            self.bn2 = make_norm(64, activation=activation)
            self.conv3 = conv3x3(64, 128)
            self.bn3 = make_norm(128, activation=activation)
        self.deep = deep
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)

        in_channels = 128 if deep else 64
        self.features = {}
        for number, (depth, stride, dilation) in enumerate(zip(depths, (1, 2, 1, 1), (1, 1, 2, 4), strict=True), 1):
            width = 64 * 2 ** (number - 1)
            blocks = [block(in_channels, width, stride, dilation, make_norm, activation)]
            in_channels = width * block.expansion
            blocks += [block(in_channels, width, 1, dilation, make_norm, activation) for _ in range(depth - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            self.features[f"layer{number}"] = Feature(in_channels, 4 if number == 1 else 8)
        self.features |= {f"{name}.pre": feature for name, feature in self.features.items()}

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """The maps named in ``wanted``."""
        x = self.bn1(self.conv1(images))
        if self.deep:
            x = self.bn3(self.conv3(self.bn2(self.conv2(x))))
        x = self.maxpool(x)
        maps = {}
        for name in ("layer1", "layer2", "layer3", "layer4"):
            *blocks, last = getattr(self, name)
            for block in blocks:
                x = self._run(block, x)
            if f"{name}.pre" in wanted:
                maps[f"{name}.pre"] = x = last.pre(x)
                x = last.activate(x, inplace=False)
            else:
                x = self._run(last, x)
            if name in wanted:
                maps[name] = x
        return maps

    def norm_before(self, feature: str) -> nn.BatchNorm2d:
        """The last BatchNorm of the block whose sum is the map ``feature`` ("layer3.pre")."""
        if feature not in self.features or not feature.endswith(".pre"):
            raise ValueError(f"there is no BatchNorm before {feature}; known: layer1.pre to layer4.pre")
        block = getattr(self, feature.removesuffix(".pre"))[-1]
        return block.bn3 if isinstance(block, Bottleneck) else block.bn2

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if not (self.checkpoint_blocks and self.training):
            return block(x)
        if torch.compiler.is_compiling():  # it traces the block once and takes no context_fn
            return checkpoint(block, x, use_reentrant=False)
        # The recomputation must not count the batch a second time in BatchNorm's running statistics.
        return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), frozen_statistics(block)))
