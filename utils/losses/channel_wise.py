"""Channel-wise distillation (CWD): where each channel of the student looks follows the teacher's.

Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationOutput,
    adapter_between,
    check_reduction,
    check_shapes,
    check_temperature,
    full_precision,
    mean_over,
    resize,
)

NORMS = ("channel", "spatial", "channel_mean", "none")


@full_precision
def channel_wise_loss(
    student_map: Tensor,
    teacher_map: Tensor,
    temperature: float = 4.0,
    norm: str = "channel",
    divergence: str = "kl",
    valid: Tensor | None = None,
    num_valid: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Divergence of normalised maps, by default of the spatial softmax of every channel (eq. 3).

    temperature^2 * sum_{n,c,i} p^T log(p^T / p^S) / (N * C), with p = softmax over positions i of map / temperature.

    Args:
        student_map, teacher_map: (N, C, h, w) and (N, C, H, W); the student's is resized to the teacher's.
        norm: what is compared: "channel", a softmax over the positions; "spatial", a softmax over the channels at each
            position (sum over channels, mean over positions); "channel_mean", the mean over the positions of each
            channel; "none", the maps as they are (sum over channels, mean over positions).
        divergence: "kl", or "mse", the squared difference, which takes no temperature.
        valid: (N, H, W) bool, the positions that count; None for all.
        num_valid: see ``mean_over``; for the norms that are means over positions.
        reduction: "mean", or "original" for the authors' code, whose "none" takes the first sample alone and divides
            by N * H * W; it takes no ``valid``.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes that do not match, an unknown word, a temperature that is not positive, "kl" of maps that are
            no probabilities ("channel_mean", "none") unless as the original, which gives NaN for negative ones.
    """
    check_shapes(student_map, teacher_map, same_channels=True)
    check_words(norm, divergence, temperature, reduction)
    check_reduction(reduction, valid)
    if reduction == "original" and norm == "none":
        student_map, teacher_map, num_samples = student_map[:1], teacher_map[:1], len(student_map)
    else:
        num_samples = 1

    teacher_map = teacher_map.detach()
    student_map = resize(student_map, teacher_map.shape[2:])
    if divergence == "mse":
        temperature = 1.0
    logs = norm in ("channel", "spatial")
    scale = 1.0 if norm == "none" else temperature
    student, teacher = (_normalise(x / scale, norm, valid) for x in (student_map, teacher_map))
    if divergence == "mse":
        distance = (student.exp() - teacher.exp() if logs else student - teacher).square()
    elif logs:
        # Where the teacher has no mass (its log is -inf) nothing is lost, and -inf - -inf would be NaN.
        distance = teacher.exp() * (teacher - student).masked_fill(teacher == -torch.inf, 0)
    else:
        distance = teacher * (teacher.log() - student.log())
    return temperature**2 * _reduce(distance, norm, valid, num_valid) / num_samples


def _normalise(x: Tensor, norm: str, valid: Tensor | None) -> Tensor:
    """(N, C, H, W): log-probabilities for the two softmaxes, values for the others ((N, C) for the means)."""
    if norm == "spatial":
        return F.log_softmax(x, dim=1)
    if norm == "none":
        return x
    positions = x.flatten(2)
    if norm == "channel":
        if valid is not None:
            positions = positions.masked_fill(~valid.flatten(1)[:, None], -torch.finfo(x.dtype).max)
        return F.log_softmax(positions, dim=2)
    if valid is None:
        return positions.mean(2)
    weights = valid.flatten(1)[:, None].to(x)
    return positions.masked_fill(weights == 0, 0).sum(2) / weights.sum(2).clamp(min=1)


def _reduce(distance: Tensor, norm: str, valid: Tensor | None, num_valid: Tensor | None) -> Tensor:
    if norm in ("spatial", "none"):
        return mean_over(distance.sum(1), valid, num_valid)
    if norm == "channel_mean":
        return distance.mean()
    if valid is not None:  # of a sample without a valid position nothing is left to compare
        distance = distance.masked_fill(~valid.flatten(1)[:, None], 0)
    return distance.sum(2).mean()


def check_words(norm: str, divergence: str, temperature: float, reduction: str = "mean") -> None:
    """Raise ValueError as ``channel_wise_loss``."""
    if norm not in NORMS or divergence not in ("kl", "mse") or reduction not in ("mean", "original"):
        raise ValueError(
            f"unknown norm {norm!r}, divergence {divergence!r} or reduction {reduction!r}; known: {', '.join(NORMS)}; "
            "kl, mse; mean, original"
        )
    if divergence == "kl" and norm in ("channel_mean", "none") and reduction == "mean":
        raise ValueError(f"norm {norm} makes no probabilities for a kl divergence: use norm=channel, or divergence=mse")
    check_temperature(temperature)


class ChannelWise(DistillationLoss):
    """Channel-wise distillation: where each channel looks follows the teacher's.

    A student of another width passes a 1x1 convolution first. The scale is the original's, whatever the batch. The
    BatchNorm of conv_bn_relu takes its statistics from each process's batch.

    Args:
        temperature: of the softmax, above 0; mse takes none
        norm: channel (softmax over the positions), spatial (softmax over the channels), channel_mean, none
        divergence: kl or mse
        adapter: conv, that convolution alone, or conv_bn_relu, with BatchNorm and ReLU after it as in the authors' code
        adapter_lr: a constant learning rate of the adapter, above 0; none: the student's, with its schedule
    """

    flag = "cwd"
    paper = "Shu et al., ICCV 2021, eq. 3"

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        weight: float = 3.0,
        on: str = "logits",
        temperature: float = 4.0,
        norm: Literal["channel", "spatial", "channel_mean", "none"] = "channel",
        divergence: Literal["kl", "mse"] = "kl",
        adapter: Literal["conv", "conv_bn_relu"] = "conv",
        adapter_lr: float | None = None,
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        check_words(norm, divergence, temperature)
        self.temperature, self.norm, self.divergence = temperature, norm, divergence
        self.min_channels = 2 if norm == "spatial" else 1
        self.adapter, self.own_rate = adapter_between(student_channels, teacher_channels), adapter_lr
        if adapter_lr is not None and (adapter_lr <= 0 or student_channels == teacher_channels):
            raise ValueError(f"--cwd adapter_lr={adapter_lr}: above 0, of a student of another width than the teacher")
        self.normalised = adapter == "conv_bn_relu"
        if self.normalised:
            if student_channels == teacher_channels:
                raise ValueError(f"--cwd adapter={adapter} has no effect: both maps have {teacher_channels} channels")
            self.adapter = nn.Sequential(self.adapter, nn.BatchNorm2d(teacher_channels), nn.ReLU())

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        if self.normalised:
            student_map = self.without_void(batch, student_map)
        return channel_wise_loss(
            self.adapter(student_map),
            teacher_map,
            self.temperature,
            self.norm,
            self.divergence,
            **self.mask(batch, teacher_map),
        )
