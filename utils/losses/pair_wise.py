"""Pair-wise distillation ("Pa"): the student's similarities between regions follow the teacher's.

Liu et al., Structured Knowledge Distillation for Semantic Segmentation, CVPR 2019, eq. 3.
"""

import argparse

import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.network.output import SegmentationOutput
from segdistill.utils.losses.base import DistillationLoss, check_shapes, full_precision, resize


@full_precision
def pair_wise_loss(
    student_feature: Tensor, teacher_feature: Tensor, pool_scale: float = 0.5, reduction: str = "mean"
) -> Tensor:
    """Squared difference of the cosine-similarity matrices of max-pooled features.

    sum_{n,i,j} (a^T_nij - a^S_nij)^2 / (N * R^2), R the number of pooled nodes.

    Args:
        student_feature, teacher_feature: (N, C_s, h, w) and (N, C_t, H, W); channel counts may differ, and the
            student's map is brought to the teacher's size first.
        pool_scale: pooling window and stride as a fraction of (H, W), in (0, 1]; 0.5 gives a 2x2 graph (3x3 when H
            and W are odd).
        reduction: "mean", or "original" for SKD's code, which lets no gradient through the norm of a node.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: batch sizes that differ, ``pool_scale`` outside (0, 1], an unknown reduction.
    """
    check_shapes(student_feature, teacher_feature, same_channels=False)
    if not 0 < pool_scale <= 1:
        raise ValueError(f"pool_scale must be in (0, 1], not {pool_scale}")
    if reduction not in ("mean", "original"):
        raise ValueError(f"unknown reduction {reduction!r}; known: mean, original")

    size = teacher_feature.shape[2:]
    window = [max(int(side * pool_scale), 1) for side in size]
    student, teacher = (
        _similarity(F.max_pool2d(feature, window, ceil_mode=True).flatten(2), detach_norm=reduction == "original")
        for feature in (resize(student_feature, size), teacher_feature.detach())
    )
    return (teacher - student).square().mean()


def _similarity(nodes: Tensor, detach_norm: bool) -> Tensor:
    """Cosine similarities (N, R, R) of the nodes (N, C, R)."""
    norm = nodes.norm(dim=1, keepdim=True)
    # Without the original's epsilon a zero node stays zero, with a bounded gradient.
    norm = norm.detach() + 1e-8 if detach_norm else norm.masked_fill(norm == 0, 1)
    nodes = nodes / norm
    return nodes.transpose(1, 2) @ nodes


class PairWise(DistillationLoss):
    """``pair_wise_loss`` of one feature map, of the same name in both networks."""

    name = "pair_wise"
    flag = "pa"

    def __init__(self, weight: float = 0.5, pool_scale: float = 0.5, feature: str = "context"):
        super().__init__(weight)
        self.pool_scale = pool_scale
        self.feature = feature
        self.student_features = self.teacher_features = (feature,)

    @classmethod
    def add_arguments(cls, group: argparse._ArgumentGroup) -> None:
        group.add_argument("--lambda-pa", type=float, default=0.5, help="weight of the pair-wise loss, as SKD's script")
        group.add_argument("--pool-scale", type=float, default=0.5, help="pooling window as a fraction of the map")
        group.add_argument("--pa-feature", default="context", help="name of the feature in both networks")

    @classmethod
    def from_options(cls, options: argparse.Namespace, student: nn.Module, teacher: nn.Module) -> "PairWise":
        return cls(options.lambda_pa, options.pool_scale, options.pa_feature)

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, labels: Tensor) -> Tensor:
        return pair_wise_loss(student.features[self.feature], teacher.features[self.feature], self.pool_scale)
