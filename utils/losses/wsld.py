"""Weighted soft labels (WSLD): soft labels count more where the student is worse at the label than the teacher.

Zhou et al., Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective, ICLR 2021.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.utils.losses.base import (
    IGNORE_INDEX,
    Batch,
    DistillationLoss,
    SegmentationOutput,
    check_reduction,
    check_shapes,
    check_temperature,
    full_precision,
    mean_over,
    resize,
    resize_labels,
)


@full_precision
def weighted_soft_label_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 2.0,
    valid: Tensor | None = None,
    num_valid: Tensor | float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """KL divergence of the softened probabilities, each position weighted by how hard its label is for the student.

    temperature^2 * mean over batch and positions of (1 - exp(-L^S / L^T)) KL(p^T, p^S), with L the cross-entropies
    (temperature 1) against the label, which take no gradient. Where there is no label the ratio L^S / L^T counts as 1.

    Args:
        student_logits, teacher_logits: (N, C, h, w) and (N, C, H, W); the student's are brought to the teacher's size.
        labels: (N, H', W') integers in 0..C-1, or 255 for none; read at the positions of the teacher's map.
        temperature: of the softmax, above 0.
        valid: (N, H, W) bool, the positions that count; None for all.
        num_valid: see ``mean_over``.
        reduction: "mean", or "original" for cross-entropy in place of the divergence, which has the same gradient; it
            takes no ``valid``.

    Returns:
        Scalar, float32 (float64 for float64 inputs), 0 or more.

    Raises:
        ValueError: shapes that do not match, a temperature that is not positive, an unknown reduction.
    """
    check_shapes(student_logits, teacher_logits, same_channels=True)
    if labels.dim() != 3 or len(labels) != len(teacher_logits):
        raise ValueError(f"labels {tuple(labels.shape)} must be (N, H, W) with N = {len(teacher_logits)}")
    check_temperature(temperature)
    check_reduction(reduction, valid)

    size = teacher_logits.shape[2:]
    student_logits, teacher_logits = resize(student_logits, size), teacher_logits.detach()
    labels = resize_labels(labels, size).long()
    own = [
        F.cross_entropy(logits.detach(), labels, ignore_index=IGNORE_INDEX, reduction="none")
        for logits in (student_logits, teacher_logits)
    ]
    ratio = (own[0] / (own[1] + 1e-7)).masked_fill(labels == IGNORE_INDEX, 1)

    student, teacher = (F.log_softmax(logits / temperature, dim=1) for logits in (student_logits, teacher_logits))
    entropy = (teacher.exp() * teacher).sum(1) if reduction == "mean" else 0
    divergence = entropy - (teacher.exp() * student).sum(1)
    return temperature**2 * mean_over((1 - torch.exp(-ratio)) * divergence, valid, num_valid)


class WeightedSoftLabel(DistillationLoss):
    """Weighted soft labels: soft labels count more where the student is worse at the label than the teacher.

    The scale is the original's, whatever the batch.

    Args:
        temperature: of the softmax, above 0
    """

    flag = "wsld"
    paper = "Zhou et al., ICLR 2021"
    equal_channels = True
    needs_logits = True
    min_channels = 2
    needs_classes = True

    def __init__(self, *, weight: float = 2.5, on: str = "logits", temperature: float = 2.0, **settings):
        super().__init__(weight=weight, on=on, **settings)
        self.temperature = temperature

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_logits, teacher_logits = self.maps(student, teacher)
        options = self.mask(batch, teacher_logits)
        return weighted_soft_label_loss(student_logits, teacher_logits, self.labels(batch), self.temperature, **options)
