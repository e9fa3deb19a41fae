"""Decoupled distillation (DKD): the labelled class against the others, and the others among themselves.

Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, eq. 7, at every position.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.utils.losses.base import (
    IGNORE_INDEX,
    Batch,
    DistillationLoss,
    SegmentationOutput,
    check_shapes,
    check_temperature,
    full_precision,
    mean_over,
    resize,
    resize_labels,
)


@full_precision
def decoupled_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    alpha: float = 1.0,
    beta: float = 1.0,
    valid: Tensor | None = None,
    num_valid: Tensor | None = None,
) -> Tensor:
    """alpha * KL(b^T || b^S) + beta * KL(q^T || q^S), times temperature^2, mean over batch and positions.

    b = (p_t, 1 - p_t) with p = softmax(logits / temperature) and t the target class; q is the softmax over the other
    classes. The target is the label, and the teacher's most probable class where there is none.

    Args:
        student_logits, teacher_logits: (N, C, h, w) and (N, C, H, W), C at least 2; the student's are resized to the
            teacher's size.
        labels: (N, H', W') integers in 0..C-1, 255 void, of any size.
        valid: (N, H, W) bool, the positions that count; None for all. 0 if there are none.
        num_valid: see ``mean_over``.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes that do not match, a single class, a temperature that is not positive.
    """
    check_shapes(student_logits, teacher_logits, same_channels=True)
    if teacher_logits.shape[1] < 2:
        raise ValueError("a single class has no others to compare it with: DKD needs at least 2")
    check_temperature(temperature)

    size = teacher_logits.shape[2:]
    teacher_logits = teacher_logits.detach()
    labels = resize_labels(labels, size)
    target = torch.where(labels == IGNORE_INDEX, teacher_logits.argmax(1), labels.long())[:, None]
    student = _decouple(resize(student_logits, size) / temperature, target)
    teacher = _decouple(teacher_logits / temperature, target)
    target_term, others_term = (_divergence(t, s) for t, s in zip(teacher, student, strict=True))
    return temperature**2 * mean_over(alpha * target_term + beta * others_term, valid, num_valid)


def _decouple(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of target against others (N, 2, H, W), and among the others (N, C, H, W), -inf at target."""
    others = logits.scatter(1, target, -torch.inf)
    own_and_rest = torch.stack([logits.gather(1, target)[:, 0], others.logsumexp(1)], dim=1)
    return F.log_softmax(own_and_rest, dim=1), F.log_softmax(others, dim=1)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL divergence (N, H, W) of log-probabilities; an impossible class adds nothing, where -inf - -inf is NaN."""
    return (teacher.exp() * (teacher - student).masked_fill(teacher == -torch.inf, 0)).sum(1)


class Decoupled(DistillationLoss):
    """Decoupled distillation: the labelled class against the others, and the others among themselves.

    Where a position has no label the teacher's most probable class takes its place; void=mask leaves it out.
    The scale is the original's, a mean over positions in place of samples. The defaults are mmrazor's; the authors take
    temperature=4 beta=8 on CIFAR.

    Args:
        temperature: of the softmax, above 0
        alpha: weight of the labelled class against the others
        beta: weight of the others among themselves
    """

    flag = "dkd"
    paper = "Zhao et al., CVPR 2022, eq. 7"
    equal_channels = True
    needs_logits = True
    min_channels = 2
    needs_classes = True

    def __init__(
        self,
        *,
        weight: float = 1.0,
        on: str = "logits",
        temperature: float = 1.0,
        alpha: float = 1.0,
        beta: float = 1.0,
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        self.temperature, self.alpha, self.beta = temperature, alpha, beta

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_logits, teacher_logits = self.maps(student, teacher)
        mask = self.mask(batch, teacher_logits)
        return decoupled_loss(
            student_logits, teacher_logits, self.labels(batch), self.temperature, self.alpha, self.beta, **mask
        )
