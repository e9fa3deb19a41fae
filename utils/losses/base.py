"""What every distillation method shares: the module's contract, precision, sizes, means."""

import argparse
import functools
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.network.output import SegmentationOutput
from segdistill.utils.distributed import mean_over_processes

IGNORE_INDEX = 255


class DistillationLoss(nn.Module):
    """A term of the total loss. ``forward`` returns the unweighted scalar; the trainer multiplies it by ``weight``."""

    name: ClassVar[str]  # of the term in the logs
    flag: ClassVar[str]  # of the command line: ``--pi`` switches the method on
    student_features: tuple[str, ...] = ()
    teacher_features: tuple[str, ...] = ()

    def __init__(self, weight: float):
        super().__init__()
        self.weight = weight

    @classmethod
    def add_arguments(cls, group: argparse._ArgumentGroup) -> None:
        """Declare the method's settings; its switch is the trainer's to declare."""
        raise NotImplementedError

    @classmethod
    def from_options(cls, options: argparse.Namespace, student: nn.Module, teacher: nn.Module) -> "DistillationLoss":
        """Build the method from the parsed settings, for two networks of the zoo."""
        raise NotImplementedError

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, labels: Tensor) -> Tensor:
        """Scalar, float32 at least. ``labels`` is (N, H, W), integers, 255 = void."""
        raise NotImplementedError

    def step_critic(self, student: SegmentationOutput, teacher: SegmentationOutput) -> dict[str, Tensor]:
        """Train what the method itself learns from, after the student's step; returns scalars to log."""
        return {}

    def set_lr_factor(self, factor: float) -> None:
        """Follow the student's learning-rate schedule in what ``step_critic`` trains."""


def full_precision(function: Callable) -> Callable:
    """Run ``function`` outside autocast and on float32 copies of half-precision arguments."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        args = [upcast(arg) for arg in args]
        kwargs = {key: upcast(arg) for key, arg in kwargs.items()}
        device = next(arg.device for arg in [*args, *kwargs.values()] if isinstance(arg, Tensor))
        with torch.autocast(device.type, enabled=False):
            return function(*args, **kwargs)

    return wrapper


def upcast(value):
    """A float16 or bfloat16 tensor in float32; anything else as it is."""
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value


def check_shapes(student: Tensor, teacher: Tensor, same_channels: bool) -> None:
    """Raise ValueError unless both are maps (N, C, H, W) of one N and, if asked, one C."""
    dims = 2 if same_channels else 1
    if student.dim() != 4 or teacher.dim() != 4 or student.shape[:dims] != teacher.shape[:dims]:
        must = "batch sizes and channel counts" if same_channels else "batch sizes"
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must be (N, C, H, W) of equal {must}"
        )


def resize(maps: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Bilinear, corners on corners; maps that have the size already are returned as they are."""
    if maps.shape[2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


def mean_over_valid(total: Tensor, count: Tensor) -> Tensor:
    """``total``, a sum over ``count`` positions of this process, over the mean count of all processes.

    Averaged over the processes, as their gradients are, this is the mean over the positions of the global batch.
    Where no position is valid ``total`` is zero and so is the result, gradient included.
    """
    return total / mean_over_processes(count.to(total.dtype)).clamp(min=1e-6)
