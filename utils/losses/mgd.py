"""Masked generative distillation (MGD): the student generates the teacher's feature from its own masked one.

Yang et al., Masked Generative Distillation, ECCV 2022, section 3.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationOutput,
)
from segdistill.utils.losses.fitnet import fitnet_loss


def hide(feature: Tensor, uniform: Tensor, share: float) -> Tensor:
    """``feature`` (N, C, h, w) with zeros where ``uniform`` is above 1 - ``share``.

    Args:
        uniform: draws in 0..1 that broadcast over the feature: (N, 1, h, w) hides positions, (N, C, 1, 1) channels.
        share: of what is hidden, 0..1.

    Returns:
        (N, C, h, w).

    Raises:
        ValueError: a share outside 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share to hide must be in 0..1, not {share}")
    return feature.masked_fill(uniform > 1 - share, 0)


class MaskedGenerative(DistillationLoss):
    """Masked generative distillation: from part of its feature the student generates the teacher's.

    A student of another width passes a 1x1 convolution; then part of the map is hidden, and two 3x3 convolutions
    generate the teacher's map, compared by mean squared difference over batch, channels and positions. With void=mask
    the student's void positions are 0 first. The original sums over channels and positions: its weight 2e-5 is
    2e-5 * C * H * W here (of the teacher's map), 42 for 512 channels of 64x64.

    Args:
        share: of the student's map that is hidden, 0..1
        hidden: what is hidden together, positions with all their channels or whole channels
    """

    flag = "mgd"
    paper = "Yang et al., ECCV 2022, section 3"

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        weight: float = 40.0,
        on: str = "context",
        share: float = 0.65,
        hidden: Literal["positions", "channels"] = "positions",
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        if not 0 <= share <= 1:
            raise ValueError(f"--mgd share={share}: the share to hide is in 0..1")
        if hidden not in ("positions", "channels"):
            raise ValueError(f"--mgd hidden={hidden}: known are positions, channels")
        self.share, self.hidden = share, hidden
        same = student_channels == teacher_channels
        self.align = nn.Identity() if same else nn.Conv2d(student_channels, teacher_channels, 1)
        self.generation = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
        )

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        student_map = self.without_void(batch, student_map)
        num, channels, height, width = len(student_map), len(teacher_map[0]), *student_map.shape[2:]
        shape = (num, 1, height, width) if self.hidden == "positions" else (num, channels, 1, 1)
        uniform = torch.rand(shape, device=student_map.device)
        return fitnet_loss(self.generate(student_map, uniform), teacher_map, **self.mask(batch, teacher_map))

    def generate(self, student_map: Tensor, uniform: Tensor) -> Tensor:
        """Generate the teacher's map (N, C, h, w) from the student's map, masked by ``uniform``."""
        return self.generation(hide(self.align(student_map), uniform, self.share))
