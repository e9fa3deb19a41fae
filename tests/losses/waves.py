"""Inputs that a formula defines, for reference values: amplitude * sin(i * (0.7 + 0.1 k)); gradients."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from segdistill.network import SegmentationOutput
from segdistill.utils.batch import Batch
from segdistill.utils.losses import DistillationLoss


def wave(k: int, shape: tuple[int, ...], amplitude: float) -> Tensor:
    """Float64; i counts the elements from 1, row by row."""
    i = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return amplitude * torch.sin(i * (0.7 + 0.1 * k)).reshape(shape)


STUDENT_LOGITS = wave(1, (2, 5, 9, 13), 3)
TEACHER_LOGITS = wave(2, (2, 5, 9, 13), 3)
STUDENT_FEATURE = wave(3, (2, 6, 9, 13), 2)
TEACHER_FEATURE = wave(4, (2, 8, 9, 13), 2)


VALID = torch.zeros(2, 9, 13, dtype=torch.bool)
VALID[0, 2:7] = VALID[1, :, 5:] = True


def train_own(loss: DistillationLoss, *arguments) -> dict[str, Tensor]:
    """What a learner lets a method do before and after the student's step."""
    scalars = loss.before_step(*arguments)
    loss.after_step(*arguments)
    return scalars


def gradient_of(loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> Tensor:
    student = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student, teacher), student)
    return gradient


def striped_labels() -> Tensor:
    """(2, 36, 52): stripes of 97 pixels through classes 0..4 and void."""
    labels = torch.arange(2 * 36 * 52).div(97, rounding_mode="floor") % 6
    return labels.masked_fill(labels == 5, 255).reshape(2, 36, 52)


def output_of(**features: Tensor) -> SegmentationOutput:
    """A network's output that holds these features."""
    return SegmentationOutput(features.get("logits"), features)


def batch_of(labels: Tensor, progress: float = 0.0) -> Batch:
    """A batch of one process with these labels (N, H, W)."""
    nothing = torch.empty(len(labels), 0)
    return Batch(nothing, labels, nothing, (labels != 255).sum(), progress)
