"""Feature mimicking: the student's feature equals the teacher's, by absolute or squared difference.

Li et al., Mimicking Very Efficient Network for Object Detection, CVPR 2017.
"""

from typing import Literal

from torch import Tensor

from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationOutput,
    adapter_between,
    check_shapes,
    full_precision,
    mean_over,
    resize,
    unit_vectors,
)


@full_precision
def mimic_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    distance: str = "l2",
    normalize: bool = False,
    valid: Tensor | None = None,
    num_valid: Tensor | float | None = None,
) -> Tensor:
    """|s - t| ("l1") or (s - t)^2 ("l2"), mean over batch, channels and positions.

    Normalized maps have root mean square 1 in every image: s sqrt(K) / ||s||_2 over its K = C * H * W elements. "l1"
    of these is factor transfer's distance (Kim et al., NeurIPS 2018) and knowledge adaptation's (He et al., CVPR 2019).

    Args:
        student_feature, teacher_feature: (N, C, h, w) and (N, C, H, W); the student's is resized to the teacher's.
        normalize: compare directions alone.
        valid: (N, H, W) bool, the positions that count, in the lengths too; None for all.
        num_valid: see ``mean_over``.

    Returns:
        Scalar, float32 (float64 for float64 inputs), 0 or more; normalized at most 2 for "l1" and 4 for "l2".

    Raises:
        ValueError: shapes that do not match, an unknown distance.
    """
    check_shapes(student_feature, teacher_feature, same_channels=True)
    if distance not in ("l1", "l2"):
        raise ValueError(f"unknown distance {distance!r}; known: l1, l2")
    maps = resize(student_feature, teacher_feature.shape[2:]), teacher_feature.detach()
    if normalize:
        maps = [_normalized(x, valid) for x in maps]
    difference = maps[0] - maps[1]
    values = difference.abs() if distance == "l1" else difference.square()
    return mean_over(values.mean(1), valid, num_valid)


def _normalized(x: Tensor, valid: Tensor | None) -> Tensor:
    """Maps whose root mean square over channels and valid positions is 1; 0 at the others."""
    positions = x[0, 0].numel()
    if valid is not None:
        x, positions = x.masked_fill(~valid[:, None], 0), valid.flatten(1).sum(1)[:, None].to(x)
    scale = (positions * x.shape[1]) ** 0.5
    return (unit_vectors(x.flatten(1), dim=1) * scale).view_as(x)


class Mimic(DistillationLoss):
    """Feature mimicking: a feature equals the teacher's, by absolute or squared difference, with normalize up to scale.

    A student of another width passes a 1x1 convolution first. Sums over channels and positions in the originals are
    means here: mmrazor's L2Loss (normalized) keeps its weight, its FTLoss takes weight / sqrt(C * H * W).

    Args:
        distance: l1 or l2
        normalize: compare the maps of each image scaled to one length
    """

    flag = "mimic"
    paper = "Li et al., CVPR 2017"

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        weight: float = 10.0,
        on: str = "context",
        distance: Literal["l1", "l2"] = "l1",
        normalize: bool = False,
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        self.distance, self.normalize = distance, normalize
        self.adapter = adapter_between(student_channels, teacher_channels)

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        student_map = self.adapter(student_map)
        return mimic_loss(student_map, teacher_map, self.distance, self.normalize, **self.mask(batch, teacher_map))
