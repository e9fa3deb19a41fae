"""Relational distillation (RKD): distances and angles between regions of an image follow the teacher's.

Park et al., Relational Knowledge Distillation, CVPR 2019, section 3.2.
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
def relational_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    relation: str = "distance",
    grid: int = 4,
    normalize: bool = False,
    valid: Tensor | None = None,
    num_valid: Tensor | float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Smooth L1 distance of the relations between the nodes of each image, mean over images, pairs or triplets.

    "distance": ||x_i - x_j||_2 over its mean in the image. "angle": the cosine between x_i - x_j
    and x_k - x_j. The originals relate the images of a batch, which a dense batch has too few of; the nodes here are
    the means of grid x grid regions. It holds N * grid^4 * C numbers for the angles: 34 MB at batch 8, grid 4 and 4096
    channels, 134 MB at grid 8 and 1024.

    Args:
        student_feature, teacher_feature: (N, C_s, h, w) and (N, C_t, H, W); channel counts may differ, and the
            student's map is resized to the teacher's.
        relation: "distance" or "angle".
        grid: regions along each side, 2 or more.
        normalize: scale nodes to length 1 first.
        valid: (N, H, W) bool, the positions that count; None for all. A region without one is no node.
        num_valid: not needed: the term is a mean over images.
        reduction: "mean", or "original" for nodes that are the flattened maps of the batch's samples; it takes no
            ``valid``.

    Returns:
        Scalar, 0 or more, float32 (float64 for float64 inputs).

    Raises:
        ValueError: batch sizes that differ, an unknown relation or reduction, a grid below 2 or finer than the map.
    """
    check_shapes(student_feature, teacher_feature, same_channels=False)
    if relation not in ("distance", "angle"):
        raise ValueError(f"unknown relation {relation!r}; known: distance, angle")
    check_reduction(reduction, valid)
    if reduction == "original":
        student, teacher = (x.flatten(1)[None] for x in (student_feature, teacher_feature.detach()))
        exists = torch.ones(student.shape[:2], dtype=torch.bool, device=student.device)
    else:
        size = teacher_feature.shape[2:]
        if not 2 <= grid <= min(size):
            raise ValueError(f"grid must be from 2 to the map's side, {min(size)}, not {grid}")
        student, exists = _regions(resize(student_feature, size), grid, valid)
        teacher, _ = _regions(teacher_feature.detach(), grid, valid)

    if normalize:
        student, teacher = (unit_vectors(x, dim=2) for x in (student, teacher))
    related = exists[:, :, None] & exists[:, None, :]
    if relation == "distance":
        student, teacher = (_distances(x, related) for x in (student, teacher))
    else:
        student, teacher = _angles(student), _angles(teacher)
        related = related[:, :, :, None] & exists[:, None, None, :]
    difference = F.smooth_l1_loss(student, teacher, reduction="none").masked_fill(~related, 0)
    return (difference.flatten(1).sum(1) / related.flatten(1).sum(1).clamp(min=1)).mean()


def _regions(feature: Tensor, grid: int, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Nodes (N, grid^2, C), the means of the regions' valid positions, and which of them exist, (N, grid^2) bool."""
    if valid is None:
        nodes = F.adaptive_avg_pool2d(feature, grid).flatten(2).transpose(1, 2)
        return nodes, torch.ones(nodes.shape[:2], dtype=torch.bool, device=nodes.device)
    share = F.adaptive_avg_pool2d(valid[:, None].to(feature), grid)
    nodes = F.adaptive_avg_pool2d(feature.masked_fill(~valid[:, None], 0), grid) / share.masked_fill(share == 0, 1)
    return nodes.flatten(2).transpose(1, 2), share.flatten(1) > 0


def _distances(nodes: Tensor, related: Tensor) -> Tensor:
    """(N, R, R), over their mean in each image."""
    distances = torch.linalg.vector_norm(nodes[:, :, None] - nodes[:, None], dim=3).masked_fill(~related, 0)
    count = (distances > 0).sum((1, 2), keepdim=True).clamp(min=1)
    mean = distances.sum((1, 2), keepdim=True) / count
    return distances / mean.masked_fill(mean == 0, 1)


def _angles(nodes: Tensor) -> Tensor:
    """Cosines (N, R, R, R) at each node between the directions to every two; 0 where a direction has no length."""
    directions = unit_vectors(nodes[:, None] - nodes[:, :, None], dim=3)
    return directions @ directions.transpose(2, 3)


class Relational(DistillationLoss):
    """Relational distillation: distances and angles between regions of an image follow the teacher's.

    The term is distance + angle * (the loss of the angles); mmrazor's and the authors' weights 25 and 50 are weight=25
    angle=2. It relates regions within an image, where the originals relate the images of a batch.

    Args:
        grid: regions along each side of the map
        angle: weight of the angles relative to the distances, 0 or more; 0 leaves them out
        normalize: compare directions of the regions' features alone, not lengths
    """

    flag = "rkd"
    paper = "Park et al., CVPR 2019, section 3.2"

    def __init__(
        self,
        *,
        weight: float = 25.0,
        on: str = "context",
        grid: int = 4,
        angle: float = 2.0,
        normalize: bool = False,
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        if grid < 2 or angle < 0:
            raise ValueError(f"--rkd grid={grid} angle={angle}: a grid is 2 or more, a weight 0 or more")
        self.grid, self.angle, self.normalize = grid, angle, normalize
        self.min_channels = 2 if normalize else 1

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        options = {"grid": self.grid, "normalize": self.normalize, **self.mask(batch, teacher_map)}
        loss = relational_loss(student_map, teacher_map, "distance", **options)
        if self.angle:
            loss = loss + self.angle * relational_loss(student_map, teacher_map, "angle", **options)
        return loss
