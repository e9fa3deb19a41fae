"""Intra-class feature variation (IFVD): how far each position is from its class's mean follows the teacher's.

Wang et al., Intra-class Feature Variation Distillation for Semantic Segmentation, ECCV 2020, eq. 2-4.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationOutput,
    check_reduction,
    check_shapes,
    full_precision,
    mean_over,
    resize,
    resize_labels,
)


@full_precision
def intra_class_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    labels: Tensor,
    num_classes: int,
    valid: Tensor | None = None,
    num_valid: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Squared difference of two similarity maps, mean over batch and positions, 0..4.

    sum_{n,i} (v^T_ni - v^S_ni)^2 / (N * H * W), v_ni = cos(f_ni, mean of f_n over the positions of i's class). A
    position without a class adds 0. Gradients flow through the student's class means as well.

    Args:
        student_feature, teacher_feature: (N, C_s, h, w) and (N, C_t, H, W); channel counts may differ, and the
            student's map is resized to the teacher's first.
        labels: (N, H', W') integers of any size; those outside 0..num_classes-1 are void.
        valid: (N, H, W) bool, the positions that count, in the class means too; None for all. 0 if there are none.
        num_valid: see ``mean_over``.
        reduction: "mean", or "original" for the authors' choice of the label at a position, that of ``F.interpolate``,
            whose positions lie up and to the left of the features'.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: batch sizes that differ, an unknown reduction.
    """
    check_shapes(student_feature, teacher_feature, same_channels=False)
    check_reduction(reduction)

    size = teacher_feature.shape[2:]
    if reduction == "original":
        labels = F.interpolate(labels[:, None].float(), size)[:, 0]
    else:
        labels = resize_labels(labels, size)
    members = labels.flatten(1)[:, None] == torch.arange(num_classes, device=labels.device)[:, None]
    if valid is not None:
        members = members & valid.flatten(1)[:, None]
    student, teacher = (
        _similarity_to_class(x.flatten(2), members.to(x))
        for x in (resize(student_feature, size), teacher_feature.detach())
    )
    return mean_over((teacher - student).square().unflatten(1, size), valid, num_valid)


def _similarity_to_class(feature: Tensor, members: Tensor) -> Tensor:
    """Cosine (N, P) of each feature (N, C, P) with the sum of its class; 0 without a class. Members are (N, K, P)."""
    # The sum has the direction of the mean.
    sums = feature @ members.transpose(1, 2)
    return (_unit(feature) * (_unit(sums) @ members)).sum(1)


def _unit(x: Tensor) -> Tensor:
    """``x`` (N, C, P) with columns of length 1; a zero column stays zero, with a bounded gradient."""
    norm = x.norm(dim=1, keepdim=True)
    return x / norm.masked_fill(norm == 0, 1)


class IntraClass(DistillationLoss):
    """Intra-class feature variation (IFVD): distances from the class's mean follow the teacher's.

    The scale is the original's, whatever the batch: 200 is IFVD's weight, 20 that of CIRKD. An image without any label
    adds 0.
    """

    flag = "ifvd"
    paper = "Wang et al., ECCV 2020, eq. 2-4"
    min_channels = 2
    needs_classes = True

    def __init__(self, num_classes: int, *, weight: float = 200.0, on: str = "context", **settings):
        super().__init__(weight=weight, on=on, **settings)
        self.num_classes = num_classes

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        mask = self.mask(batch, teacher_map)
        return intra_class_loss(student_map, teacher_map, batch.labels, self.num_classes, **mask)
