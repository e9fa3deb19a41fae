"""Overhaul of feature distillation: the student follows the teacher's map before its activation, where that matters.

Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, section 3.
"""

import math

import torch
from torch import Tensor, nn

from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationNetwork,
    SegmentationOutput,
    check_reduction,
    check_shapes,
    full_precision,
    mean_over,
    resize,
)


@full_precision
def overhaul_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    margin: Tensor | None = None,
    valid: Tensor | None = None,
    num_valid: Tensor | float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Partial squared distance to the teacher's map after a ReLU that cuts at a margin instead of 0.

    mean of (s - t)^2 * [s > t or t > 0], t = max(T, margin): a negative response is only told to be no greater.

    Args:
        student_feature, teacher_feature: (N, C, h, w) and (N, C, H, W), before the activation; the student's is
            brought to the teacher's size.
        margin: (C,), 0 or less, see ``negative_mean``; None cuts nothing.
        valid: (N, H, W) bool, the positions that count; None for all.
        num_valid: see ``mean_over``.
        reduction: "mean" over batch, channels and positions, or "original" for the sum of the authors' code; it takes
            no ``valid``.

    Returns:
        Scalar, float32 (float64 for float64 inputs), 0 or more.

    Raises:
        ValueError: shapes that do not match, an unknown reduction.
    """
    check_shapes(student_feature, teacher_feature, same_channels=True)
    check_reduction(reduction, valid)
    if margin is not None and margin.shape != teacher_feature.shape[1:2]:
        raise ValueError(f"margin {tuple(margin.shape)} must be one per channel of teacher {teacher_feature.shape[1]}")

    student = resize(student_feature, teacher_feature.shape[2:])
    teacher = teacher_feature.detach()
    if margin is not None:
        teacher = teacher.maximum(margin[:, None, None].to(teacher))
    wrong = (student > teacher) | (teacher > 0)
    distance = (student - teacher).square() * wrong
    if reduction == "original":
        return distance.sum()
    return mean_over(distance.mean(1), valid, num_valid)


@torch.no_grad()
def negative_mean(norm: nn.BatchNorm2d) -> Tensor:
    """The mean of a normal variable's negative part, E[x | x < 0] for x ~ N(bias, weight^2) of a BatchNorm.

    Returns:
        (C,) float32. Where x is negative in less than one case of 1000 it is -3 |weight|, as in the authors' code.
    """
    mean, deviation = norm.bias.double(), norm.weight.double().abs().clamp(min=1e-12)
    z = mean / deviation
    share = torch.special.ndtr(-z)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return torch.where(share > 0.001, mean - deviation * density / share, -3 * deviation).float()


def connector(student_channels: int, teacher_channels: int) -> nn.Sequential:
    """A 1x1 convolution and BatchNorm to the teacher's width: maps that look like those before an activation."""
    convolution = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(teacher_channels))


class Overhaul(DistillationLoss):
    """Overhaul of feature distillation: maps before the activation follow the teacher's, negative ones only downwards.

    The student passes a 1x1 convolution and BatchNorm first, whose statistics are those of each process's batch. The
    feature is one before its activation (``layer3.pre``), with a BatchNorm in the teacher that gives the margins. The
    original sums over channels and positions: its weight 1e-5 is 1e-5 * C * H * W here (of the teacher's map), 22 for
    2048 channels of 33x33, for the last layer; each layer before it counts half as much as the next. mmrazor's 1 is
    0.001 * C * H * W.
    """

    flag = "overhaul"
    paper = "Heo et al., ICCV 2019, section 3"

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        weight: float = 20.0,
        on: str = "layer4.pre",
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        self.connector = connector(student_channels, teacher_channels)
        # A plain ReLU's, until ``between`` asks the teacher; a resumed run asks it again.
        self.register_buffer("margin", torch.zeros(teacher_channels), persistent=False)

    @classmethod
    def between(cls, student: SegmentationNetwork, teacher: SegmentationNetwork, **settings) -> "Overhaul":
        loss = super().between(student, teacher, **settings)
        loss.margin.copy_(negative_mean(teacher.norm_before(loss.teacher_feature)))
        return loss

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        student_map = self.connector(self.without_void(batch, student_map))
        return overhaul_loss(student_map, teacher_map, self.margin, **self.mask(batch, teacher_map))
