"""The task loss: cross-entropy on both heads; on request weighted, smoothed, on hard pixels, with a term of overlap."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.utils.losses.base import (
    IGNORE_INDEX,
    Batch,
    SegmentationOutput,
    full_precision,
    resize,
    resize_labels,
    upcast,
)
from segdistill.utils.losses.overlap import dice_loss, lovasz_loss

OHEM_FACTOR = 8  # the threshold is searched on maps this much smaller
LARGEST_PRODUCT = 64  # greatest side of maps that are enlarged by matrix products


@full_precision
def cross_entropy_loss(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = IGNORE_INDEX,
    num_valid: Tensor | None = None,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    focal: float = 0.0,
) -> Tensor:
    """Mean cross-entropy over the valid pixels; 0 if there are none.

    Args:
        logits: (N, C, h, w), resized to the labels' size (bilinear, aligned corners).
        labels: (N, H, W) integers in 0..C-1, or ``ignore_index``.
        num_valid: the number to divide by in place of that of the valid pixels: see ``Batch``.
        class_weights: (C,) factors of each class. The divisor stays the number of pixels, so that parts of a batch and
            processes add up; torch's mean divides by the sum of the pixels' weights.
        label_smoothing: the share of the target, 0..1, that is spread over all classes, as in torch.
        focal: factor (1 - p)^focal, p the probability of the pixel's class. Lin et al., Focal Loss, ICCV 2017.

    Returns:
        Scalar, float32 (float64 for float64 logits).

    Raises:
        ValueError: ranks or batch sizes that do not fit.
    """
    _check_labels(logits, labels)
    logits = _enlarge(logits, labels.shape[1:])
    return _mean_cross_entropy(logits, labels, ignore_index, num_valid, class_weights, label_smoothing, focal)


@full_precision
def ohem_loss(
    logits: Tensor,
    labels: Tensor,
    threshold: float = 0.7,
    min_kept: int = 100_000,
    ignore_index: int = IGNORE_INDEX,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy over the hard pixels: those whose own class has at most probability tau.

    tau is ``threshold``, or more where fewer than ``min_kept`` pixels of this process's batch would be left: then it
    is the min_kept-th smallest probability, estimated on maps shrunk 8 times. Shrivastava et al., CVPR 2016, as in
    SKD's utils/criterion.py. The mean is over this process's hard pixels.

    Args, returns and raises: see ``cross_entropy_loss``.
    """
    _check_labels(logits, labels)
    logits = _enlarge(logits, labels.shape[1:])
    with torch.no_grad():
        probabilities = logits.softmax(dim=1)
        tau = _ohem_threshold(probabilities, labels, threshold, min_kept, ignore_index)
        easy = _own_class(probabilities, labels, ignore_index) > tau
    hard = labels.masked_fill(easy, ignore_index)
    return _mean_cross_entropy(logits, hard, ignore_index, None, class_weights, label_smoothing)


class TaskLoss(nn.Module):
    """Deep supervision: the main head's loss + ``aux_weight`` x cross-entropy of the other.

    Args:
        aux_weight: weight of the auxiliary head; 0 leaves it out.
        ohem: the settings of ``ohem_loss`` (threshold, min_kept) to train the main head on hard pixels only.
        weight: factor in the total loss.
        class_weights, label_smoothing: of both heads' cross-entropy.
        focal: of the main head's cross-entropy, without ``ohem``.
        dice, lovasz: weights of these terms of the main head beside cross-entropy.
    """

    name = "cross_entropy"

    def __init__(
        self,
        aux_weight: float = 0.0,
        ohem: dict[str, float] | None = None,
        weight: float = 1.0,
        *,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        focal: float = 0.0,
        dice: float = 0.0,
        lovasz: float = 0.0,
    ):
        super().__init__()
        self.aux_weight, self.ohem, self.weight = aux_weight, ohem, weight
        self.label_smoothing, self.focal, self.dice, self.lovasz = label_smoothing, focal, dice, lovasz
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.wanted = frozenset({"logits", "aux_logits"} if aux_weight else {"logits"})

    def forward(self, output: SegmentationOutput, batch: Batch) -> Tensor:
        logits, labels = output.logits, batch.labels
        if self.dice or self.lovasz:
            logits = _enlarge(upcast(logits), labels.shape[1:])  # once for all
        smoothed = {"class_weights": self.class_weights, "label_smoothing": self.label_smoothing}
        if self.ohem is None:
            loss = cross_entropy_loss(logits, labels, num_valid=batch.num_valid, focal=self.focal, **smoothed)
        else:
            loss = ohem_loss(logits, labels, **self.ohem, **smoothed)
        if self.dice:
            loss = loss + self.dice * dice_loss(logits, labels)
        if self.lovasz:
            loss = loss + self.lovasz * lovasz_loss(logits, labels)
        if self.aux_weight:
            auxiliary = output.features["aux_logits"]
            loss = loss + self.aux_weight * cross_entropy_loss(auxiliary, labels, num_valid=batch.num_valid, **smoothed)
        return loss


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    if logits.dim() != 4 or labels.dim() != 3 or len(logits) != len(labels):
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must be (N, C, h, w) and (N, H, W)"
        )


def _enlarge(logits: Tensor, size: torch.Size) -> Tensor:
    """``resize``; on the CPU by matrix products where maps are small: the backward pass of PyTorch's kernel is slow."""
    logits = logits.contiguous()  # softmax over the classes is faster then, and a copy is cheapest here
    if logits.device.type != "cpu" or max(logits.shape[2:]) > LARGEST_PRODUCT or logits.shape[2:] == size:
        return resize(logits, size)
    rows, columns = (_interpolation(*sides, logits) for sides in zip(logits.shape[2:], size, strict=True))
    return rows @ (logits @ columns.T)


def _interpolation(source: int, target: int, like: Tensor) -> Tensor:
    """The matrix (target, source) of linear interpolation with aligned corners."""
    place = torch.arange(target, dtype=like.dtype) * ((source - 1) / max(target - 1, 1))
    return (1 - (place[:, None] - torch.arange(source)).abs()).clamp(min=0).to(like)


def _mean_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int,
    num_valid: Tensor | None = None,
    class_weights: Tensor | None = None,
    smoothing: float = 0.0,
    focal: float = 0.0,
) -> Tensor:
    weights = None if class_weights is None else class_weights.to(logits)
    # F.cross_entropy has no deterministic form for maps on CUDA
    if focal or torch.are_deterministic_algorithms_enabled():
        values = _cross_entropies(logits, labels, ignore_index, weights, smoothing, focal)
        total = values.masked_fill(labels == ignore_index, 0).sum()
    else:
        total = F.cross_entropy(
            logits, labels.long(), weights, ignore_index=ignore_index, reduction="sum", label_smoothing=smoothing
        )
    count = (labels != ignore_index).sum() if num_valid is None else num_valid
    # Without a valid pixel the total is 0 and so is the mean, gradient included.
    return total / count.clamp(min=1e-6)


def _cross_entropies(
    logits: Tensor, labels: Tensor, ignore_index: int, weights: Tensor | None, smoothing: float, focal: float
) -> Tensor:
    """The cross-entropy (N, H, W) of each pixel; of void ones any number."""
    logs = F.log_softmax(logits, dim=1)
    own = -_own_class(logs, labels, ignore_index)
    hardness = (1 - (-own).exp()).clamp(min=1e-6) ** focal if focal else 1.0
    if weights is not None:
        logs = logs * weights[:, None, None]
        own = -_own_class(logs, labels, ignore_index)
    if smoothing:
        own = (1 - smoothing) * own - smoothing * logs.mean(dim=1)
    return hardness * own


def _own_class(probabilities: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """The value (N, H, W) of each pixel's own class; of class 0 where the label is ``ignore_index``."""
    own = labels.long().masked_fill(labels == ignore_index, 0)
    return probabilities.gather(1, own[:, None])[:, 0]


def _ohem_threshold(
    probabilities: Tensor, labels: Tensor, threshold: float, min_kept: int, ignore_index: int
) -> Tensor | float:
    size = [max(round(side / OHEM_FACTOR), 1) for side in labels.shape[1:]]
    labels = resize_labels(labels, size)
    void = labels == ignore_index
    own = _own_class(resize(probabilities, size), labels, ignore_index).masked_fill(void, torch.inf).flatten()

    num_kept = min_kept // OHEM_FACTOR**2
    if num_kept >= len(own):
        return 1.0
    if num_kept == 0:
        return threshold
    # Where no more are labelled, all are kept.
    tau = own.kthvalue(num_kept).values.clamp(min=threshold)
    return torch.where((~void).sum() > num_kept, tau, 1.0)
