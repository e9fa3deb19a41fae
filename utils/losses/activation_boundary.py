"""Activation boundaries (AB): the student's units are active where the teacher's are.

Heo et al., Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons, AAAI 2019.
"""

from torch import Tensor

from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationOutput,
    check_shapes,
    full_precision,
    mean_over,
    resize,
)
from segdistill.utils.losses.overhaul import connector


@full_precision
def activation_boundary_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    margin: float = 1.0,
    valid: Tensor | None = None,
    num_valid: Tensor | float | None = None,
) -> Tensor:
    """Squared hinge loss: the student's pre-activation has the sign of the teacher's, with a margin.

    mean over batch, channels and positions of max(0, margin - s)^2 where T > 0 and of max(0, margin + s)^2 elsewhere.

    Args:
        student_feature, teacher_feature: (N, C, h, w) and (N, C, H, W), before the activation; the student's is
            resized to the teacher's.
        margin: 0 or more.
        valid: (N, H, W) bool, the positions that count; None for all.
        num_valid: see ``mean_over``.

    Returns:
        Scalar, float32 (float64 for float64 inputs), 0 or more.

    Raises:
        ValueError: shapes that do not match, a negative margin.
    """
    check_shapes(student_feature, teacher_feature, same_channels=True)
    if margin < 0:
        raise ValueError(f"margin must be 0 or more, not {margin}")
    student = resize(student_feature, teacher_feature.shape[2:])
    side = (teacher_feature.detach() > 0).to(student) * 2 - 1
    return mean_over((margin - side * student).relu().square().mean(1), valid, num_valid)


class ActivationBoundary(DistillationLoss):
    """Activation boundaries: the units of a map before its activation are active where the teacher's are.

    The student passes a 1x1 convolution and BatchNorm first, whose statistics are those of each process's batch.
    mmrazor takes 3/1000 of the sum over channels and positions, which suits small maps only: its weight 1 is
    0.003 * C * H * W here (of the teacher's map).

    Args:
        margin: distance from 0 that the student's responses are asked to keep, 0 or more
    """

    flag = "ab"
    paper = "Heo et al., AAAI 2019"

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        weight: float = 1.0,
        on: str = "layer4.pre",
        margin: float = 1.0,
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        self.margin = margin
        self.connector = connector(student_channels, teacher_channels)

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        student_map = self.connector(self.without_void(batch, student_map))
        return activation_boundary_loss(student_map, teacher_map, self.margin, **self.mask(batch, teacher_map))
