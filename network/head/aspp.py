"""Atrous spatial pyramid pooling (Chen et al., 2017, arXiv:1706.05587, section 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.libs import get_norm
from segdistill.network.base import resize


class ASPP(nn.Module):
    """A 1x1 convolution, three 3x3 convolutions of different dilation and the mean of the map, side by side, projected.

    Args:
        in_channels: of the map.
        channels: of each branch and of the result.
        stride: of the map; the dilations are 12, 24 and 36 at stride 8 and halve as it doubles.
        norm: name of a normalisation factory in ``libs``.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, norm: str):
        super().__init__()
        make_norm = get_norm(norm)

        def branch(in_channels: int, kernel: int, dilation: int = 1) -> list[nn.Module]:
            padding = kernel // 2 * dilation
            conv = nn.Conv2d(in_channels, channels, kernel, padding=padding, dilation=dilation, bias=False)
            return [conv, make_norm(channels, activation="relu")]

        self.branches = nn.ModuleList([nn.Sequential(*branch(in_channels, 1))])
        self.branches.extend(
            nn.Sequential(*branch(in_channels, 3, rate)) for rate in (96 // stride, 192 // stride, 288 // stride)
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), *branch(in_channels, 1))
        self.project = nn.Sequential(nn.Conv2d(5 * channels, channels, 1, bias=False), make_norm(channels))
        self.dropout = nn.Dropout(0.5)

    def pre(self, x: Tensor) -> Tensor:
        """(N, in_channels, h, w) to (N, channels, h, w), before the activation."""
        mean, size = self.pool(x), x.shape[2:]
        mean = resize(mean, size) if torch.jit.is_tracing() else mean.expand(-1, -1, *size)  # ncnn has no expand
        return self.project(torch.cat([*(branch(x) for branch in self.branches), mean], dim=1))

    def activate(self, pre: Tensor) -> Tensor:
        return self.dropout(F.relu(pre))
