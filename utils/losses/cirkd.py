"""Cross-image relational distillation (CIRKD), within the batch: how alike the pixels of all its images are.

Yang et al., Cross-Image Relational Knowledge Distillation for Semantic Segmentation, CVPR 2022.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationOutput,
    average_pool,
    check_shapes,
    check_temperature,
    full_precision,
    mean_weights,
    resize,
    unit_vectors,
)

TILE = 2**23  # similarities at a time: 32 MB in float32, of which a few copies live at once
LARGE = 256  # maps with this many positions a side are pooled unless told otherwise


def relation_divergence(
    student: Tensor,
    teacher: Tensor,
    student_keys: Tensor,
    teacher_keys: Tensor,
    temperature: float,
    valid_keys: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """KL divergence of the student's similarity distributions from the teacher's, weighted sum over P vectors.

    sum_p weight_p mean_k KL(p^T_pk || p^S_pk), p_pk the softmax of (vector p . key) / temperature over the M keys of
    group k of K. Tiles over the vectors, and each tile makes its part of the gradient at once, so memory does not grow
    with P * K * M and no similarity is computed twice. The gradient has no gradient itself.

    Args:
        student, teacher: (P, D_s) and (P, D_t).
        student_keys, teacher_keys: (K, M, D_s) and (K, M, D_t).
        valid_keys: (K, M) bool, the keys that count; None for all. A group without one counts 0.
        weights: (P,), without gradient; None for the mean.
    """
    if weights is None:
        weights = student.new_full((len(student),), 1 / len(student))
    keys = student_keys, teacher_keys, temperature, valid_keys
    return _Divergence.apply(student, teacher, *keys, weights.to(student))


class _Divergence(torch.autograd.Function):
    """See ``relation_divergence``; the teacher's side gets no gradient."""

    @staticmethod
    def forward(ctx, student, teacher, student_keys, teacher_keys, temperature, valid_keys, weights) -> Tensor:
        for_student, _, for_keys, *_ = ctx.needs_input_grad
        total = student.new_zeros(())
        num_groups, num_keys, _ = student_keys.shape
        gradient, keys_gradient = (x.new_zeros(x.shape) for x in (student, student_keys.flatten(0, 1)))
        rows = max(TILE // (num_groups * num_keys), 1)
        tiles = zip(*(x.split(rows) for x in (student, teacher, weights, gradient)), strict=True)
        for student_tile, teacher_tile, weight, gradient_tile in tiles:
            log_p = _log_similarities(student_tile, student_keys, temperature, valid_keys)
            log_q = _log_similarities(teacher_tile, teacher_keys, temperature, valid_keys)
            q = log_q.exp()
            total += (q.flatten(1) * log_q.sub_(log_p).flatten(1)).sum(1) @ weight / num_groups
            if not (for_student or for_keys):
                continue
            slope = log_p.exp_().sub_(q).mul_(weight[:, None, None] / (num_groups * temperature)).flatten(1)
            torch.mm(slope, student_keys.flatten(0, 1), out=gradient_tile)
            if for_keys:
                keys_gradient.addmm_(slope.T, student_tile)
        ctx.save_for_backward(gradient, keys_gradient.view_as(student_keys) if for_keys else None)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, factor: Tensor):
        gradient, keys_gradient = ctx.saved_tensors
        keys_gradient = None if keys_gradient is None else keys_gradient * factor
        return gradient * factor, None, keys_gradient, None, None, None, None


def _log_similarities(vectors: Tensor, keys: Tensor, temperature: float, valid_keys: Tensor | None) -> Tensor:
    """(P, K, M): the logarithm of the softmax over the M keys of a group."""
    similarity = ((vectors / temperature) @ keys.flatten(0, 1).T).unflatten(1, keys.shape[:2])
    if valid_keys is not None:
        similarity = similarity.masked_fill(~valid_keys, -torch.finfo(similarity.dtype).max)
    return similarity.log_softmax(2)


@full_precision
def cross_image_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    temperature: float = 0.1,
    pool: int | None = None,
    valid: Tensor | None = None,
    num_valid: Tensor | float | None = None,
) -> Tensor:
    """Divergence of every pixel's similarities to the pixels of an image, over all ordered pairs of images.

    sum_{m,n,i} KL(p^T_mni || p^S_mni) / (N^2 * H * W), p_mni the softmax, over the pixels j of image n, of
    cos(f_mi, f_nj) / temperature. It relates the samples of a batch, of this process's batch alone. The time grows
    with (N * H * W)^2, the memory does not: see ``relation_divergence``.

    Args:
        student_feature, teacher_feature: (N, C_s, h, w) and (N, C_t, H, W); channel counts may differ, and the
            student's map is resized to the teacher's first.
        pool: side of the windows whose means are the pixels; None is 4 for maps of 256 or more a side, 1 for others.
        valid: (N, H, W) bool, the positions that count; None for all.
        num_valid: see ``mean_over``.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: batch sizes that differ, a temperature that is not positive, ``pool`` below 1.
    """
    check_shapes(student_feature, teacher_feature, same_channels=False)
    check_relation(temperature, pool)
    size = teacher_feature.shape[2:]
    if pool is None:
        pool = 4 if min(size) >= LARGE else 1
    maps = resize(student_feature, size), teacher_feature.detach()
    (student, pooled_valid), (teacher, _) = (average_pool(x, pool, valid) for x in maps)
    if num_valid is not None:
        num_valid = num_valid * (student.shape[2:].numel() / size.numel())

    student, teacher = (unit_vectors(x.flatten(2).transpose(1, 2), dim=2) for x in (student, teacher))
    valid_keys = None if pooled_valid is None else pooled_valid.flatten(1)
    rows, weights = (student.flatten(0, 1), teacher.flatten(0, 1)), mean_weights(pooled_valid, num_valid)
    return relation_divergence(*rows, student, teacher, temperature, valid_keys, weights)


def check_relation(temperature: float, pool: int | None = None) -> None:
    """Raise ValueError as ``cross_image_loss``."""
    check_temperature(temperature)
    if pool is not None and pool < 1:
        raise ValueError(f"pool must be 1 or more, not {pool}")


class CrossImage(DistillationLoss):
    """Cross-image relations: each pixel's similarities to the pixels of all images of the batch follow the teacher's.

    The weight is CIRKD's, 1. Pairs are made within a process's batch. The time grows with the square of the pixels in
    the batch: pool=2 takes a sixteenth.

    Args:
        temperature: of the softmax over similarities, above 0
        pool: side of the windows that are averaged first; none is 4 for maps of 256 or more a side, 1 for others
    """

    flag = "cirkd"
    paper = "Yang et al., CVPR 2022, mini-batch-based distillation"
    min_channels = 2

    def __init__(
        self,
        *,
        weight: float = 1.0,
        on: str = "context",
        temperature: float = 0.1,
        pool: int | None = None,
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        check_relation(temperature, pool)
        self.temperature, self.pool = temperature, pool

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        return cross_image_loss(student_map, teacher_map, self.temperature, self.pool, **self.mask(batch, teacher_map))
