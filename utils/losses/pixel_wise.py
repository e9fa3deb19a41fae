"""Pixel-wise distillation ("Pi"): the student's class probabilities follow the teacher's at every position.

Liu et al., Structured Knowledge Distillation for Semantic Segmentation, CVPR 2019, eq. 2.
"""

import argparse

import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.network.output import SegmentationOutput
from segdistill.utils.flags import add_switch
from segdistill.utils.losses.base import (
    IGNORE_INDEX,
    DistillationLoss,
    check_shapes,
    full_precision,
    mean_over_valid,
    resize,
)


@full_precision
def pixel_wise_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    valid: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """KL divergence of the student's class probabilities from the teacher's, mean over batch and positions.

    temperature^2 * sum_{n,h,w,c} p^T log(p^T / p^S) / (N * H * W), with p = softmax(logits / temperature).

    Args:
        student_logits, teacher_logits: (N, C, h, w) and (N, C, H, W); the student's are brought to the teacher's size.
        valid: (N, H, W) bool, the positions that count; None for all. 0 if there are none.
        reduction: "mean", or "original" for SKD's code: cross-entropy in place of the divergence (the same gradient),
            summed over the batch and divided by H * W, without temperature^2; it takes no ``valid``.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive, an unknown reduction.
    """
    check_shapes(student_logits, teacher_logits, same_channels=True)
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    if reduction not in ("mean", "original"):
        raise ValueError(f"unknown reduction {reduction!r}; known: mean, original")

    size = teacher_logits.shape[2:]
    student = F.log_softmax(resize(student_logits, size) / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    if reduction == "original":
        if valid is not None:
            raise ValueError('reduction "original" counts every position; it takes no valid mask')
        return -(teacher.exp() * student).sum() / size.numel()

    divergence = (teacher.exp() * (teacher - student)).sum(dim=1)
    if valid is None:
        return temperature**2 * divergence.mean()
    if valid.shape != divergence.shape:
        raise ValueError(f"valid {tuple(valid.shape)} must have the teacher's positions {tuple(divergence.shape)}")
    return temperature**2 * mean_over_valid(divergence.masked_fill(~valid, 0).sum(), valid.sum())


class PixelWise(DistillationLoss):
    """``pixel_wise_loss`` of the logits; void pixels count too unless ``on_void`` is false."""

    name = "pixel_wise"
    flag = "pi"

    def __init__(self, weight: float = 10.0, temperature: float = 1.0, on_void: bool = True):
        super().__init__(weight)
        self.temperature = temperature
        self.on_void = on_void

    @classmethod
    def add_arguments(cls, group: argparse._ArgumentGroup) -> None:
        group.add_argument(
            "--lambda-pi",
            type=float,
            default=10.0,
            help="weight of the pixel-wise loss, a mean over batch and positions. SKD sums over the batch: "
            "its 10 is 10 x batch size here, 80 at batch size 8",
        )
        group.add_argument("--pi-temperature", type=float, default=1.0, help="softmax temperature")
        add_switch(group, "--pi-on-void", "distil at void pixels too, as the originals do", default=True)

    @classmethod
    def from_options(cls, options: argparse.Namespace, student: nn.Module, teacher: nn.Module) -> "PixelWise":
        return cls(options.lambda_pi, options.pi_temperature, options.pi_on_void)

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, labels: Tensor) -> Tensor:
        valid = None
        if not self.on_void:
            size = teacher.logits.shape[2:]
            valid = F.interpolate(labels[:, None].float(), size=size, mode="nearest")[:, 0] != IGNORE_INDEX
        return pixel_wise_loss(student.logits, teacher.logits, self.temperature, valid)
