"""Pair-wise distillation ("Pa"): the student's similarities between regions follow the teacher's.

Liu et al., Structured Knowledge Distillation for Semantic Segmentation, CVPR 2019, eq. 3.
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
    resize,
    unit_vectors,
)


@full_precision
def pair_wise_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    pool_scale: float = 0.5,
    valid: Tensor | None = None,
    num_valid: Tensor | None = None,
    reduction: str = "mean",
    window: int | None = None,
) -> Tensor:
    """Squared difference of the cosine-similarity matrices of max-pooled features.

    sum_{n,i,j} (a^T_nij - a^S_nij)^2 / (N * R^2), R the number of pooled nodes. Memory grows with N * R^2: 134 MB for
    a float32 matrix of 8 maps of 128x64 positions with ``window`` 2.

    Args:
        student_feature, teacher_feature: (N, C_s, h, w) and (N, C_t, H, W); channel counts may differ, and the
            student's map is resized to the teacher's first.
        pool_scale: pooling window and stride as a fraction of (H, W), in (0, 1]; 0.5 gives a 2x2 graph (3x3 when H
            and W are odd).
        valid: (N, H, W) bool, the positions that may be a node's maximum; a window without one is a zero node.
        num_valid: not needed: the term is a mean over pairs of nodes.
        reduction: "mean", or "original" for SKD's code, which lets no gradient through the norm of a node.
        window: side of square pooling windows in positions, in place of ``pool_scale``; CIRKD's code has 2.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: batch sizes that differ, ``pool_scale`` outside (0, 1], ``window`` below 1, an unknown reduction.
    """
    check_shapes(student_feature, teacher_feature, same_channels=False)
    if not 0 < pool_scale <= 1:
        raise ValueError(f"pool_scale must be in (0, 1], not {pool_scale}")
    if window is not None and window < 1:
        raise ValueError(f"window must be 1 or more, not {window}")
    check_reduction(reduction)

    size = teacher_feature.shape[2:]
    windows = [window or max(int(side * pool_scale), 1) for side in size]
    student, teacher = (
        _similarity(_pool(feature, windows, valid), detach_norm=reduction == "original")
        for feature in (resize(student_feature, size), teacher_feature.detach())
    )
    return (teacher - student).square().mean()


def _pool(feature: Tensor, windows: list[int], valid: Tensor | None) -> Tensor:
    """Nodes (N, C, R): the maxima of windows."""
    if valid is not None:
        feature = feature.masked_fill(~valid[:, None], -torch.inf)
    nodes = F.max_pool2d(feature, windows, ceil_mode=True).flatten(2)
    return nodes if valid is None else nodes.masked_fill(nodes == -torch.inf, 0)


def _similarity(nodes: Tensor, detach_norm: bool) -> Tensor:
    """Cosine similarities (N, R, R) of the nodes (N, C, R)."""
    nodes = nodes / (nodes.detach().norm(dim=1, keepdim=True) + 1e-8) if detach_norm else unit_vectors(nodes, 1)
    return nodes.transpose(1, 2) @ nodes


class PairWise(DistillationLoss):
    """Pair-wise distillation: similarities between regions follow the teacher's.

    Weights are those of SKD (0.5, pool_scale=0.5) and CIRKD (10, window=2) unchanged.

    Args:
        pool_scale: pooling window as a fraction of the map, above 0 and at most 1; 0.5 makes 2x2 or 3x3 regions
        window: side of the pooling window in positions, 1 or more, in place of pool_scale
    """

    flag = "pa"
    paper = "Liu et al., CVPR 2019, eq. 3"
    min_channels = 2

    def __init__(
        self,
        *,
        weight: float = 0.5,
        on: str = "context",
        pool_scale: float = 0.5,
        window: int | None = None,
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        if not 0 < pool_scale <= 1 or (window is not None and window < 1):
            raise ValueError(f"--pa pool_scale={pool_scale} window={window}: above 0 and at most 1; 1 or more")
        self.pool_scale, self.window = pool_scale, window

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        mask = self.mask(batch, teacher_map)
        return pair_wise_loss(student_map, teacher_map, self.pool_scale, window=self.window, **mask)
