"""Pyramid pooling (Zhao et al., CVPR 2017, section 3.2)."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.libs import get_norm
from segdistill.network.base import resize

BINS = (1, 2, 3, 6)


class AverageBins(nn.Module):
    """The means (N, C, bins, bins) of maps (N, C, h, w) over windows of about equal size."""

    def __init__(self, bins: int):
        super().__init__()
        self.bins = bins

    def forward(self, maps: Tensor) -> Tensor:
        if not torch.compiler.is_exporting() or self.bins == 1:
            return F.adaptive_avg_pool2d(maps, self.bins)
        # ONNX has no such operator where the size is not known: two products with matrices made from the size.
        rows, columns = (mean_matrix(side, self.bins).to(maps) for side in maps.shape[2:])
        return rows @ maps @ columns.transpose(0, 1)


def mean_matrix(side: int, bins: int) -> Tensor:
    """The matrix (bins, side) whose row i averages the positions from floor(i side / bins) to ceil((i + 1) side / bins)
    (excluded)."""
    place, index = torch.arange(side), torch.arange(bins)[:, None]
    inside = (place >= index * side // bins) & (place < ((index + 1) * side + bins - 1) // bins)
    return inside / inside.sum(1, keepdim=True)


class PyramidPooling(nn.Module):
    """Averages over 1x1, 2x2, 3x3 and 6x6 bins, resized to full size, concatenated with the map, then merged.

    Args:
        in_channels: of the map.
        pooled: channels of each average.
        channels: of the result.
        norm: name of a normalisation factory in ``libs``.
        skd: as in SKD, leaky ReLU and dropout of whole channels.
    """

    def __init__(
        self,
        in_channels: int,
        pooled: int,
        channels: int,
        norm: str,
        *,
        skd: bool = False,
    ):
        super().__init__()
        make_norm = partial(get_norm(norm), activation="leaky_relu" if skd else "relu")
        self.stages = nn.ModuleList(
            nn.Sequential(
                AverageBins(bin_size),
                nn.Conv2d(in_channels, pooled, 1, bias=False),
                make_norm(pooled),
            )
            for bin_size in BINS
        )
        self.bottleneck = nn.Sequential(
            nn.Conv2d(in_channels + len(BINS) * pooled, channels, 3, padding=1, bias=False),
            make_norm(channels),
            nn.Dropout2d(0.1) if skd else nn.Dropout(0.1),
        )

    def pool(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        return resize(stage(x), x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        return self.bottleneck(torch.cat([*(self.pool(stage, x) for stage in self.stages), x], dim=1))
