"""Pearson feature distillation (PKD): each channel of the student correlates with the teacher's.

Cao et al., PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient, NeurIPS 2022.
"""

import torch
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
)


@full_precision
def pearson_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    valid: Tensor | None = None,
    num_valid: Tensor | float | None = None,
) -> Tensor:
    """1 - Pearson correlation of each channel over batch and positions, mean over channels.

    mean of (z^S - z^T)^2 / 2 with z = (x - mean) / (std + 1e-6), per channel over (N, H, W), std unbiased. The
    statistics are those of the samples given: it does not gather over processes.

    Args:
        student_feature, teacher_feature: (N, C, h, w) and (N, C, H, W); the student's is resized to the teacher's.
        valid: (N, H, W) bool, the positions that count, in the statistics too; None for all.
        num_valid: not needed: no sum over the batch goes into it.

    Returns:
        Scalar in 0..2, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes that do not match.
    """
    check_shapes(student_feature, teacher_feature, same_channels=True)
    student = resize(student_feature, teacher_feature.shape[2:])
    student, teacher = (_standardise(x, valid) for x in (student, teacher_feature.detach()))
    return mean_over((student - teacher).square().mean(1), valid) / 2


def _standardise(x: Tensor, valid: Tensor | None) -> Tensor:
    """Each channel with mean 0 and deviation 1 over the valid positions, 0 at the others."""
    if valid is None:
        num = x.numel() // x.shape[1]
        centred = x - x.mean((0, 2, 3), keepdim=True)
    else:
        num, hidden = valid.sum(), ~valid[:, None]
        mean = x.masked_fill(hidden, 0).sum((0, 2, 3), keepdim=True) / num.clamp(min=1)
        centred = (x - mean).masked_fill(hidden, 0)
        num = num.clamp(min=2)
    deviation = torch.linalg.vector_norm(centred, dim=(0, 2, 3), keepdim=True) / (num - 1) ** 0.5
    # A dead channel stays 0, with a bounded gradient.
    return centred / (deviation.masked_fill(deviation == 0, 1) + 1e-6)


class Pearson(DistillationLoss):
    """PKD: each channel of a feature correlates with the teacher's over batch and positions, whatever their scales.

    A student of another width passes a 1x1 convolution first. The correlation is that over each process's batch; the
    scale is the original's, whatever the batch.
    """

    flag = "pkd"
    paper = "Cao et al., NeurIPS 2022, section 3"

    def __init__(
        self, student_channels: int, teacher_channels: int, *, weight: float = 10.0, on: str = "context", **settings
    ):
        super().__init__(weight=weight, on=on, **settings)
        self.adapter = adapter_between(student_channels, teacher_channels)

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        return pearson_loss(self.adapter(student_map), teacher_map, **self.mask(batch, teacher_map))
