"""Similarity-preserving distillation (SP): samples that the teacher finds alike are alike to the student.

Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019.
"""

from torch import Tensor

from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationOutput,
    check_shapes,
    full_precision,
    resize,
    unit_vectors,
)


@full_precision
def similarity_preserving_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    valid: Tensor | None = None,
    num_valid: Tensor | float | None = None,
) -> Tensor:
    """Squared difference of the row-normalised similarity matrices of the batch (eq. 2-4).

    sum_{i,j} (g^S_ij - g^T_ij)^2 / N with g_i = a_i / ||a_i||_2 and a_ij the scalar product of the flattened maps of
    samples i and j. The matrix is that of the samples given: it does not gather over processes, and of one sample
    alone it tells nothing.

    Args:
        student_feature, teacher_feature: (N, C_s, h, w) and (N, C_t, H, W); channel counts may differ, and the
            student's map is resized to the teacher's.
        valid: (N, H, W) bool, the positions that count; None for all.
        num_valid: not needed: the term is a mean over samples.

    Returns:
        Scalar in 0..4, float32 (float64 for float64 inputs).

    Raises:
        ValueError: batch sizes that differ.
    """
    check_shapes(student_feature, teacher_feature, same_channels=False)
    student_feature = resize(student_feature, teacher_feature.shape[2:])
    student, teacher = (_similarity(x, valid) for x in (student_feature, teacher_feature.detach()))
    return (student - teacher).square().sum(1).mean()


def _similarity(feature: Tensor, valid: Tensor | None) -> Tensor:
    if valid is not None:
        feature = feature.masked_fill(~valid[:, None], 0)
    # The mean over the map's elements keeps numbers near 1; the rows are normalised anyway.
    samples = feature.flatten(1) / feature[0].numel() ** 0.5
    return unit_vectors(samples @ samples.T, dim=1)


class SimilarityPreserving(DistillationLoss):
    """Similarity-preserving distillation: samples of a batch that the teacher finds alike are alike to the student.

    It relates the images of a process's batch and needs two at least. The original divides by the batch size once more:
    its weight is w / N here, 3000 at batch 128 is 23.
    """

    flag = "sp"
    paper = "Tung and Mori, ICCV 2019, eq. 4"

    def __init__(self, *, weight: float = 20.0, on: str = "context", **settings):
        super().__init__(weight=weight, on=on, **settings)

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        return similarity_preserving_loss(student_map, teacher_map, **self.mask(batch, teacher_map))
