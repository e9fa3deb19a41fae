"""Inter-class similarity (AICSD): how alike the classes' maps are to each other follows the teacher's.

Mansourian et al., AICSD: Adaptive Inter-Class Similarity Distillation for Semantic Segmentation, 2023, and the
channel relation of ICKD (Liu et al., Exploring Inter-Channel Correlation for Diversity-preserved Knowledge
Distillation, ICCV 2021) on logits.
"""

from typing import Literal

import torch
from torch import Tensor

from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationOutput,
    check_reduction,
    check_shapes,
    full_precision,
    resize,
)

SIMILARITIES = ("kl", "gram")


@full_precision
def inter_class_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    similarity: str = "kl",
    valid: Tensor | None = None,
    num_valid: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Squared distance of the classes' rows in two similarity matrices, mean over batch and classes, 0..4.

    sum_{n,c,d} (a^T_ncd - a^S_ncd)^2 / (N * C), a the matrix m below with rows of length 1. No (HW)^2 matrix is made.

    Args:
        student_logits, teacher_logits: (N, C, h, w) and (N, C, H, W); the student's are brought to the teacher's size.
        similarity: "kl", m_ncd = KL(p_nc || p_nd) with p_nc the softmax over the positions of class c's map; or
            "gram", m_ncd = <x_nc, x_nd>, the inner product of two classes' logits.
        valid: (N, H, W) bool, the positions that count; None for all.
        num_valid: not needed: the term is a mean over pairs of classes.
        reduction: "mean", or "original" for the authors' "kl": a softmax over the height of the map alone,
            -<p_nc, p_nd> in place of the cross-entropy, one matrix averaged over the batch and mirrored at its
            diagonal, whose squared distances are divided by N * C^2. Their "gram" is the "mean". It takes no ``valid``.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes that do not match, an unknown word.
    """
    check_shapes(student_logits, teacher_logits, same_channels=True)
    check_similarity(similarity)
    check_reduction(reduction, valid)

    student_logits, teacher_logits = resize(student_logits, teacher_logits.shape[2:]), teacher_logits.detach()
    if reduction == "original" and similarity == "kl":
        student, teacher = (_unit(_original_divergences(x)) for x in (student_logits, teacher_logits))
        return (teacher - student).square().mean() / len(teacher_logits)
    similarities = _divergences if similarity == "kl" else _inner_products
    student, teacher = (_unit(similarities(x, valid)) for x in (student_logits, teacher_logits))
    return (teacher - student).square().sum(2).mean()


def _divergences(logits: Tensor, valid: Tensor | None) -> Tensor:
    """(N, C, C): KL divergence of class c's spatial distribution from class d's."""
    logits = logits.flatten(2)
    if valid is None:
        log_p = logits.log_softmax(2)
        p = log_p.exp()
    else:
        invalid = ~valid.flatten(1)[:, None]
        log_p = logits.masked_fill(invalid, -torch.finfo(logits.dtype).max).log_softmax(2).masked_fill(invalid, 0)
        p = log_p.exp().masked_fill(invalid, 0)
    return (p * log_p).sum(2, keepdim=True) - p @ log_p.transpose(1, 2)


def _inner_products(logits: Tensor, valid: Tensor | None) -> Tensor:
    if valid is not None:
        logits = logits.masked_fill(~valid[:, None], 0)
    logits = logits.flatten(2)
    return logits @ logits.transpose(1, 2)


def _original_divergences(logits: Tensor) -> Tensor:
    """(1, C, C), see ``inter_class_loss``."""
    log_p = logits.log_softmax(2).flatten(2)
    p = log_p.exp()
    negative_entropy = (p * log_p).sum(2)[:, None]
    matrix = (negative_entropy - p @ p.transpose(1, 2)).mean(0, keepdim=True)
    return matrix.triu() + matrix.triu(1).transpose(1, 2)


def _unit(matrix: Tensor) -> Tensor:
    """Normalise rows to length 1; rows near zero stay zero, with a bounded gradient."""
    return matrix / matrix.norm(dim=2, keepdim=True).clamp(min=1e-6)


def check_similarity(similarity: str) -> None:
    """Raise ValueError unless it is one of ``SIMILARITIES``."""
    if similarity not in SIMILARITIES:
        raise ValueError(f"unknown similarity {similarity!r}; known: {', '.join(SIMILARITIES)}")


class InterClass(DistillationLoss):
    """Inter-class similarity (AICSD): how alike the classes' maps are to each other follows the teacher's.

    A weight of the original's gram term means the same here, at any batch. Its kl term is another function, see
    ``inter_class_loss``, without a conversion: its weight 9500 has the gradient of about 1 to 2 here on the logits of
    a trained teacher (standard deviation 4, batch 6, 21 classes). Its adaptive weighting, which takes the teacher's
    influence back while the training goes on, is decay=1.

    Args:
        similarity: of two classes, kl (divergence of their spatial distributions) or gram (inner product of logits)
    """

    flag = "aicsd"
    paper = "Mansourian et al., arXiv 2308.04243"
    equal_channels = True
    min_channels = 2

    def __init__(
        self, *, weight: float = 1.0, on: str = "logits", similarity: Literal["kl", "gram"] = "kl", **settings
    ):
        super().__init__(weight=weight, on=on, **settings)
        check_similarity(similarity)
        self.similarity = similarity

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_logits, teacher_logits = self.maps(student, teacher)
        return inter_class_loss(student_logits, teacher_logits, self.similarity, **self.mask(batch, teacher_logits))
