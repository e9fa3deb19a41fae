"""FitNet: the student's feature, through a 1x1 convolution, equals the teacher's.

Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, eq. 3, for dense features as in CIRKD.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationOutput,
    check_shapes,
    full_precision,
    mean_over,
    resize,
)


@full_precision
def fitnet_loss(
    student_feature: Tensor, teacher_feature: Tensor, valid: Tensor | None = None, num_valid: Tensor | None = None
) -> Tensor:
    """Mean squared difference over batch, channels and positions.

    Args:
        student_feature, teacher_feature: (N, C, h, w) and (N, C, H, W); the student's is resized to the teacher's.
        valid: (N, H, W) bool, the positions that count; None for all.
        num_valid: see ``mean_over``.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes that do not match.
    """
    check_shapes(student_feature, teacher_feature, same_channels=True)
    student_feature = resize(student_feature, teacher_feature.shape[2:])
    return mean_over((student_feature - teacher_feature.detach()).square().mean(1), valid, num_valid)


class GraphBlock(nn.Module):
    """Self-attention over the positions of a map (N, C, H, W), merged with the map, as in CIRKDv2.

    The attention is computed in parts, so memory does not grow with (H * W)^2 where the device has a kernel for it.
    """

    def __init__(self, channels: int):
        super().__init__()
        if channels < 2:
            raise ValueError("--fitnet graph=true needs a map of 2 channels or more, not 1")
        inner = channels // 2
        self.query, self.key, self.value = (nn.Conv2d(channels, inner, 1, bias=False) for _ in range(3))
        self.widen = nn.Sequential(nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        self.merge = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        # (N, 1 head, H * W, C / 2): memory-efficient kernels need four dimensions, the last one contiguous.
        parts = (part(x).flatten(2).mT[:, None].contiguous() for part in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(*parts)[:, 0].mT.unflatten(2, x.shape[2:])
        return self.merge(torch.cat([x, self.widen(attended)], dim=1))


class FitNet(DistillationLoss):
    """FitNet: a feature, through a learned 1x1 convolution, equals the teacher's.

    The BatchNorm that comes with graph takes its statistics from each process's batch.

    Args:
        graph: let each position attend to all others before the convolution, as CIRKDv2 does, true or false
    """

    flag = "fitnet"
    paper = "Romero et al., ICLR 2015, eq. 3"

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        weight: float = 10.0,
        on: str = "context",
        graph: bool = False,
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        self.adapter = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
        if graph:
            self.adapter = nn.Sequential(GraphBlock(student_channels), self.adapter)

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        student_map = self.adapter(self.without_void(batch, student_map))
        return fitnet_loss(student_map, teacher_map, **self.mask(batch, teacher_map))
