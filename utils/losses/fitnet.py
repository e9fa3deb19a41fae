"""FitNet: the student's feature, through a 1x1 convolution, equals the teacher's.

Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, eq. 3, for dense features as in CIRKD.
"""

from torch import Tensor, nn

from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationNetwork,
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
        student_feature, teacher_feature: (N, C, h, w) and (N, C, H, W); the student's is brought to the teacher's size.
        valid: (N, H, W) bool, the positions that count; None for all.
        num_valid: see ``mean_over``.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes that do not fit.
    """
    check_shapes(student_feature, teacher_feature, same_channels=True)
    student_feature = resize(student_feature, teacher_feature.shape[2:])
    return mean_over((student_feature - teacher_feature.detach()).square().mean(1), valid, num_valid)


class FitNet(DistillationLoss):
    """FitNet: a feature, through a learned 1x1 convolution, equals the teacher's."""

    flag = "fitnet"
    paper = "Romero et al., ICLR 2015, eq. 3"

    def __init__(
        self, student_channels: int, teacher_channels: int, *, weight: float = 10.0, on: str = "context", **settings
    ):
        super().__init__(weight=weight, on=on, **settings)
        self.adapter = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)

    @classmethod
    def between(cls, student: SegmentationNetwork, teacher: SegmentationNetwork, **settings) -> "FitNet":
        return cls(*cls.channels_of(student, teacher, settings), **settings)

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        return fitnet_loss(self.adapter(student_map), teacher_map, **self.mask(batch, teacher_map))
