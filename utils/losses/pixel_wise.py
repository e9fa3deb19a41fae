"""Pixel-wise distillation ("Pi"): the student's class probabilities follow the teacher's at every position.

Liu et al., Structured Knowledge Distillation for Semantic Segmentation, CVPR 2019, eq. 2.
"""

import torch.nn.functional as F
from torch import Tensor

from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationOutput,
    check_reduction,
    check_shapes,
    check_temperature,
    full_precision,
    mean_over,
    resize,
)


@full_precision
def pixel_wise_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    valid: Tensor | None = None,
    num_valid: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """KL divergence of the student's class probabilities from the teacher's, mean over batch and positions.

    temperature^2 * sum_{n,h,w,c} p^T log(p^T / p^S) / (N * H * W), with p = softmax(logits / temperature).

    Args:
        student_logits, teacher_logits: (N, C, h, w) and (N, C, H, W); the student's are brought to the teacher's size.
        valid: (N, H, W) bool, the positions that count; None for all. 0 if there are none.
        num_valid: see ``mean_over``.
        reduction: "mean", or "original" for SKD's code: cross-entropy in place of the divergence (the same gradient),
            summed over the batch and divided by H * W, without temperature^2; it takes no ``valid``.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes that do not match, a temperature that is not positive, an unknown reduction.
    """
    check_shapes(student_logits, teacher_logits, same_channels=True)
    check_temperature(temperature)
    check_reduction(reduction, valid)

    size = teacher_logits.shape[2:]
    student = F.log_softmax(resize(student_logits, size) / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    if reduction == "original":
        return -(teacher.exp() * student).sum() / size.numel()

    divergence = (teacher.exp() * (teacher - student)).sum(dim=1)
    return temperature**2 * mean_over(divergence, valid, num_valid)


class PixelWise(DistillationLoss):
    """Pixel-wise distillation: class probabilities follow the teacher's at every position.

    The scale is that of CIRKD and DIST. SKD sums over the batch: its weight 10 is 10 x batch size here, 80 at batch 8.

    Args:
        temperature: of the softmax, above 0
    """

    flag = "pi"
    paper = "Liu et al., CVPR 2019, eq. 2"
    equal_channels = True
    min_channels = 2

    def __init__(self, *, weight: float = 10.0, on: str = "logits", temperature: float = 1.0, **settings):
        super().__init__(weight=weight, on=on, **settings)
        self.temperature = temperature

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_logits, teacher_logits = self.maps(student, teacher)
        return pixel_wise_loss(student_logits, teacher_logits, self.temperature, **self.mask(batch, teacher_logits))
