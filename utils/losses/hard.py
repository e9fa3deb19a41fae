"""Hard-label distillation: the student learns the class that the teacher gives to every position.

Touvron et al., Training data-efficient image transformers & distillation through attention, ICML 2021, section 4.
"""

import torch.nn.functional as F
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


@full_precision
def hard_label_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    valid: Tensor | None = None,
    num_valid: Tensor | float | None = None,
) -> Tensor:
    """Cross-entropy against the teacher's most probable class, mean over batch and positions.

    Args:
        student_logits, teacher_logits: (N, C, h, w) and (N, C, H, W); the student's are brought to the teacher's size.
        valid: (N, H, W) bool, the positions that count; None for all.
        num_valid: see ``mean_over``.

    Returns:
        Scalar, float32 (float64 for float64 inputs), 0 or more.

    Raises:
        ValueError: shapes that do not match.
    """
    check_shapes(student_logits, teacher_logits, same_channels=True)
    student_logits = resize(student_logits, teacher_logits.shape[2:])
    return mean_over(F.cross_entropy(student_logits, teacher_logits.argmax(1), reduction="none"), valid, num_valid)


class HardLabel(DistillationLoss):
    """Hard-label distillation: cross-entropy against the class that the teacher gives to every position.

    The scale is the originals', whatever the batch.
    """

    flag = "hard"
    paper = "Touvron et al., ICML 2021, section 4"
    equal_channels = True
    min_channels = 2

    def __init__(self, *, weight: float = 1.0, on: str = "logits", **settings):
        super().__init__(weight=weight, on=on, **settings)

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_logits, teacher_logits = self.maps(student, teacher)
        return hard_label_loss(student_logits, teacher_logits, **self.mask(batch, teacher_logits))
