"""The contract of a distillation method, with shared helpers: precision, sizes, means."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.dataset import IGNORE_INDEX
from segdistill.dataset.base import is_labelled
from segdistill.network import SegmentationNetwork, SegmentationOutput, resize
from segdistill.network.base import CLASS_FEATURES
from segdistill.utils.batch import Batch

__all__ = [
    "IGNORE_INDEX",
    "Batch",
    "DistillationLoss",
    "Needs",
    "SegmentationNetwork",
    "SegmentationOutput",
    "adapter_between",
    "average_pool",
    "check_reduction",
    "check_shapes",
    "check_temperature",
    "full_precision",
    "mean_over",
    "mean_weights",
    "resize",
    "resize_labels",
    "unit_vectors",
    "upcast",
    "valid_positions",
]


class Needs(NamedTuple):
    """The names of the features that a loss needs from each network."""

    student: frozenset[str]
    teacher: frozenset[str]


class DistillationLoss(nn.Module):
    """A term of the total loss between one map of the student and one of the teacher.

    A method is a subclass with a ``flag``, ``forward`` and a constructor whose keyword-only parameters are its
    settings. Positional parameters (student_channels, teacher_channels, num_classes) are filled in by ``between`` from
    the two networks. Parameters that a method owns train with the student's.

    Args:
        weight: factor of the term in the total loss, 0 or more
        on: the feature that it compares, or STUDENT:TEACHER where the names differ; a comma between several makes a
            term of each
        void: keep or mask the positions whose label is void; an image without any label is kept
        warmup: share of the training in which the weight rises from 0, 0..1
        decay: share of the training, at its end, in which the weight falls to 0, 0..1
    """

    flag: ClassVar[str] = "loss"  # "pi": --pi switches the method on; one in a user's own file needs none
    paper: ClassVar[str] = ""
    needs_classes: ClassVar[bool] = False  # it reads labels as class ids
    needs_logits: ClassVar[bool] = False  # its maps have a channel for each class, which it looks up by label
    equal_channels: ClassVar[bool] = False  # of the two maps: it has no adapter between different widths
    remedy: ClassVar[str] = "lower the rate of what it trains itself"  # for a scalar of before_step that is not finite
    own_rate: float | None = None  # a constant learning rate of its parameters; None: the student's, scheduled
    min_channels: int = 1  # of each map; softmax, cosine and the like of one channel are constant

    def __init__(
        self,
        *,
        weight: float,
        on: str,
        void: Literal["keep", "mask"] = "keep",
        warmup: float = 0.0,
        decay: float = 0.0,
    ):
        super().__init__()
        if not 0 <= weight < math.inf:
            raise ValueError(f"--{self.flag} weight={weight}: a weight is 0 or more")
        if not (0 <= warmup <= 1 and 0 <= decay <= 1 and warmup + decay <= 1):
            raise ValueError(f"--{self.flag} warmup={warmup} decay={decay}: shares of the training, together at most 1")
        self.weight, self.void, self.warmup, self.decay = weight, void, warmup, decay
        self.student_feature, _, teacher_feature = on.partition(":")
        self.teacher_feature = teacher_feature or self.student_feature
        self.needs = Needs(frozenset({self.student_feature}), frozenset({self.teacher_feature}))
        # Indices of the classes that the teacher knows, if not all: only these are compared.
        self.register_buffer("known_classes", None, persistent=False)

    @classmethod
    def between(
        cls, student: SegmentationNetwork, teacher: SegmentationNetwork, **settings: object
    ) -> "DistillationLoss":
        """Build the method for two networks, from which its positional parameters are filled in by name."""
        asked = inspect.signature(cls).parameters
        arguments = {"num_classes": student.num_classes}
        if "student_channels" in asked:
            channels = cls.channels_of(student, teacher, settings)
            arguments |= zip(("student_channels", "teacher_channels"), channels, strict=True)
        return cls(**{name: value for name, value in arguments.items() if name in asked}, **settings)

    @classmethod
    def channels_of(
        cls, student: SegmentationNetwork, teacher: SegmentationNetwork, settings: dict[str, object]
    ) -> tuple[int, int]:
        """Channels of the two maps that a method with these settings compares; ValueError if there is no such map."""
        on = settings.get("on", inspect.signature(cls).parameters["on"].default)
        student_feature, _, teacher_feature = on.partition(":")
        teacher_feature = teacher_feature or student_feature
        student.check_features({student_feature})
        teacher.check_features({teacher_feature})
        known = teacher.known_classes
        return num_channels(student, student_feature, known), num_channels(teacher, teacher_feature, known)

    def check_networks(self, student: SegmentationNetwork, teacher: SegmentationNetwork) -> None:
        """Raise ValueError if a network lacks a map that the method needs, or its maps have not the channels for it."""
        for owner, network, names in zip(("student", "teacher"), (student, teacher), self.needs, strict=True):
            network.check_features(names)
            for name in sorted(names):
                count, least = num_channels(network, name, teacher.known_classes), self.min_channels
                if count < least:
                    raise ValueError(
                        f"--{self.flag} needs maps of {least} channels or more, the {owner}'s {name} has {count}"
                    )
                if self.needs_logits and name not in CLASS_FEATURES:
                    raise ValueError(f"--{self.flag} needs logits: the channels of the {owner}'s {name} are no classes")
        if self.equal_channels:
            counts = self.channels_of(student, teacher, {"on": f"{self.student_feature}:{self.teacher_feature}"})
            if len(set(counts)) > 1:
                raise ValueError(
                    f"--{self.flag} needs maps of equal channels, the student's {self.student_feature} has "
                    f"{counts[0]}, the teacher's {self.teacher_feature} {counts[1]}"
                )

    def weight_at(self, progress: float) -> float:
        """The weight of the term at ``progress`` (0..1) of the training."""
        rise = min(progress / self.warmup, 1) if self.warmup else 1
        fall = min((1 - progress) / self.decay, 1) if self.decay else 1
        return self.weight * rise * fall

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        """The unweighted term, a float32 scalar."""
        raise NotImplementedError

    def before_step(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> dict[str, Tensor]:
        """Compute the gradient of what the method trains itself (a critic), before the student's step.

        The outputs carry no gradient. Returns scalars to log; one that is not finite refuses the whole step, so the
        norm of the gradient is among them. They are read with the step's own: nothing here should wait for the device.
        """
        return {}

    def after_step(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> None:
        """Update the method's own state (critic, queues) after the student's step; arguments as ``before_step``.

        All terms and all scalars of ``before_step`` are finite.
        """

    def maps(self, student: SegmentationOutput, teacher: SegmentationOutput) -> tuple[Tensor, Tensor]:
        """The two maps that the term compares."""
        return self.map_of(student, self.student_feature), self.map_of(teacher, self.teacher_feature)

    def map_of(self, output: SegmentationOutput, name: str) -> Tensor:
        """A feature map; of logits only the classes that the teacher knows."""
        feature = output.features[name]
        return feature if self.known_classes is None or name not in CLASS_FEATURES else feature[:, self.known_classes]

    def labels(self, batch: Batch) -> Tensor:
        """The batch's labels as class indices of ``maps``; void where the teacher lacks the class.

        For terms that compare logits with labels.
        """
        if self.known_classes is None:
            return batch.labels
        numbers = batch.labels.new_full((256,), IGNORE_INDEX)
        numbers[self.known_classes] = torch.arange(len(self.known_classes), device=numbers.device).to(numbers)
        return numbers[batch.labels.long()]

    def mask(self, batch: Batch, like: Tensor) -> dict[str, Tensor | None]:
        """The keywords ``valid`` and ``num_valid`` of the method's function, for maps of the size of ``like``."""
        size = like.shape[2:]
        valid = valid_positions(batch.labels, size) if self.void == "mask" else None
        if batch.unsure is not None:  # how many are left on other processes is not known: the mean is of its own
            sure = ~resize_labels(batch.unsure, size)
            return {"valid": sure if valid is None else valid & sure, "num_valid": None}
        if valid is None:
            return {}
        share = size.numel() / batch.labels[0].numel()
        return {"valid": valid, "num_valid": None if batch.num_kept is None else batch.num_kept * share}

    def without_void(self, batch: Batch, maps: Tensor) -> Tensor:
        """The maps with zeros at masked positions, for layers that mix positions (attention, BatchNorm)."""
        valid = self.mask(batch, maps).get("valid")
        return maps if valid is None else maps.masked_fill(~valid[:, None], 0)


def num_channels(network: SegmentationNetwork, feature: str, known_classes: Sequence[int] | None) -> int:
    """Channels of a feature map; of logits the number of ``known_classes`` (None: all)."""
    if known_classes and feature in CLASS_FEATURES:
        return len(known_classes)
    return network.features[feature].channels


def adapter_between(student_channels: int, teacher_channels: int) -> nn.Module:
    """A 1x1 convolution from the student's width to the teacher's; nothing where they are equal."""
    if student_channels == teacher_channels:
        return nn.Identity()
    return nn.Conv2d(student_channels, teacher_channels, 1, bias=False)


def full_precision(function: Callable) -> Callable:
    """Decorator: run ``function`` without autocast, on float32 copies of half-precision arguments."""

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


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless it is above 0."""
    if not temperature > 0:
        raise ValueError(f"a temperature is above 0, not {temperature}")


def check_reduction(reduction: str, valid: Tensor | None = None) -> None:
    """Raise ValueError unless it is "mean", or "original" without a mask."""
    if reduction not in ("mean", "original"):
        raise ValueError(f"unknown reduction {reduction!r}; known: mean, original")
    if reduction == "original" and valid is not None:
        raise ValueError('reduction "original" counts every position; it takes no valid mask')


def check_shapes(student: Tensor, teacher: Tensor, same_channels: bool) -> None:
    """Raise ValueError unless both are maps (N, C, H, W) of one N and, if asked, one C."""
    dims = 2 if same_channels else 1
    if student.dim() != 4 or teacher.dim() != 4 or student.shape[:dims] != teacher.shape[:dims]:
        must = "batch sizes and channel counts" if same_channels else "batch sizes"
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must be (N, C, H, W) of equal {must}"
        )


def resize_labels(labels: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Labels (N, H, W) resized to ``size``: nearest pixel, aligned corners."""
    rows, columns = (_nearest(full, small, labels.device) for full, small in zip(labels.shape[1:], size, strict=True))
    return labels[:, rows][:, :, columns]


def _nearest(full: int, small: int, device: torch.device) -> Tensor:
    """``small`` of ``full`` indices at equal steps, aligned corners, halves rounded up."""
    step = (full - 1) / max(small - 1, 1)
    return (torch.arange(small, dtype=torch.float64, device=device) * step + 0.5).long()


def valid_positions(labels: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Mask (N, h, w) bool of labelled positions of a map of ``size`` (h, w); all True for an unlabelled image."""
    labelled = is_labelled(labels)
    return resize_labels(labelled, size) | ~labelled.flatten(1).any(1)[:, None, None]


def mean_over(values: Tensor, valid: Tensor | None = None, num_valid: Tensor | float | None = None) -> Tensor:
    """The mean of ``values`` (N, h, w), over the ``valid`` positions alone if given; 0 if there are none.

    ``num_valid`` is the number to divide by in place of theirs: that of a process's share of the global batch.
    """
    if valid is None:
        return values.mean()
    if valid.shape != values.shape:
        raise ValueError(f"valid {tuple(valid.shape)} must have the positions of the map, {tuple(values.shape)}")
    return values.masked_fill(~valid, 0).sum() / _count(valid, num_valid)


def mean_weights(valid: Tensor | None, num_valid: Tensor | float | None = None) -> Tensor | None:
    """What each position counts in ``mean_over``, flat (N * h * w,) float64; None without ``valid``: all the same."""
    return None if valid is None else valid.flatten().double() / _count(valid, num_valid)


def _count(valid: Tensor, num_valid: Tensor | float | None) -> Tensor:
    count = valid.sum() if num_valid is None else torch.as_tensor(num_valid, device=valid.device)
    return count.clamp(min=1e-6)


def unit_vectors(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """``x`` divided by its Euclidean norm over ``dim``; zeros stay zeros, with a bounded gradient."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / norm.masked_fill(norm == 0, 1)


def average_pool(maps: Tensor, window: int, valid: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Average-pooled maps (N, C, h, w), border windows smaller, and a mask of windows with a valid position.

    With ``valid`` (N, h, w) bool the means are over the valid positions; a window without one is zero.
    """
    if valid is None:
        return F.avg_pool2d(maps, window, ceil_mode=True), None
    share = F.avg_pool2d(valid[:, None].to(maps), window, ceil_mode=True)
    pooled = F.avg_pool2d(maps.masked_fill(~valid[:, None], 0), window, ceil_mode=True)
    return pooled / share.masked_fill(share == 0, 1), share[:, 0] > 0
