"""The task loss: cross-entropy on both heads, with online hard example mining on request."""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.network.output import SegmentationOutput
from segdistill.utils.flags import add_switch
from segdistill.utils.losses.base import IGNORE_INDEX, full_precision, mean_over_valid, resize

OHEM_FACTOR = 8  # the threshold is searched on maps this much smaller


@full_precision
def cross_entropy_loss(logits: Tensor, labels: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Mean cross-entropy over the valid pixels; 0 if there are none.

    Args:
        logits: (N, C, h, w), brought to the size of the labels (bilinear, corners aligned).
        labels: (N, H, W) integers in 0..C-1, or ``ignore_index``.

    Returns:
        Scalar, float32 (float64 for float64 logits). With several processes, the mean is over the global batch.

    Raises:
        ValueError: ranks or batch sizes that do not fit.
    """
    _check_labels(logits, labels)
    return _mean_cross_entropy(resize(logits, labels.shape[1:]), labels, ignore_index)


@full_precision
def ohem_loss(
    logits: Tensor,
    labels: Tensor,
    threshold: float = 0.7,
    min_kept: int = 100_000,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Mean cross-entropy over the hard pixels: those whose own class has at most probability tau.

    tau is ``threshold``, or more where fewer than ``min_kept`` pixels of this process's batch would be left: then it
    is the min_kept-th smallest probability, estimated on maps shrunk 8 times. Shrivastava et al., CVPR 2016, as in
    SKD's utils/criterion.py.

    Args, returns and raises: see ``cross_entropy_loss``.
    """
    _check_labels(logits, labels)
    logits = resize(logits, labels.shape[1:])
    with torch.no_grad():
        probabilities = logits.softmax(dim=1)
        tau = _ohem_threshold(probabilities, labels, threshold, min_kept, ignore_index)
        easy = _own_class(probabilities, labels, ignore_index) > tau
    return _mean_cross_entropy(logits, labels.masked_fill(easy, ignore_index), ignore_index)


class TaskLoss(nn.Module):
    """Deep supervision: the main head's loss (OHEM on request) + ``aux_weight`` x plain cross-entropy of the other."""

    name = "cross_entropy"

    def __init__(self, aux_weight: float = 0.4, ohem: bool = False, threshold: float = 0.7, min_kept: int = 100_000):
        super().__init__()
        self.aux_weight = aux_weight
        self.ohem = ohem
        self.threshold = threshold
        self.min_kept = min_kept

    @classmethod
    def add_arguments(cls, group: argparse._ArgumentGroup) -> None:
        group.add_argument("--aux-weight", type=float, default=0.4, help="weight of the auxiliary head")
        add_switch(group, "--ohem", "train the main head on hard pixels only")
        group.add_argument("--ohem-thresh", type=float, default=0.7, help="pixels below this probability are hard")
        group.add_argument("--ohem-keep", type=int, default=100_000, help="pixels kept at least, per process")

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> "TaskLoss":
        return cls(options.aux_weight, options.ohem, options.ohem_thresh, options.ohem_keep)

    def forward(self, output: SegmentationOutput, labels: Tensor) -> Tensor:
        """Scalar; ``labels`` is (N, H, W) integers, 255 = void."""
        if self.ohem:
            loss = ohem_loss(output.logits, labels, self.threshold, self.min_kept)
        else:
            loss = cross_entropy_loss(output.logits, labels)
        if output.aux_logits is not None and self.aux_weight:
            loss = loss + self.aux_weight * cross_entropy_loss(output.aux_logits, labels)
        return loss


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    if logits.dim() != 4 or labels.dim() != 3 or len(logits) != len(labels):
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must be (N, C, h, w) and (N, H, W)"
        )


def _mean_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    total = F.cross_entropy(logits, labels.long(), ignore_index=ignore_index, reduction="sum")
    return mean_over_valid(total, (labels != ignore_index).sum())


def _own_class(probabilities: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Probability (N, H, W) of each pixel's own class; of class 0 where the label is ``ignore_index``."""
    own = labels.long().masked_fill(labels == ignore_index, 0)
    return probabilities.gather(1, own[:, None])[:, 0]


def _ohem_threshold(
    probabilities: Tensor, labels: Tensor, threshold: float, min_kept: int, ignore_index: int
) -> Tensor | float:
    size = [max(round(side / OHEM_FACTOR), 1) for side in labels.shape[1:]]
    rows, columns = (_nearest(full, small, labels.device) for full, small in zip(labels.shape[1:], size, strict=True))
    labels = labels[:, rows][:, :, columns]
    own = _own_class(resize(probabilities, size), labels, ignore_index)[labels != ignore_index]

    num_kept = min_kept // OHEM_FACTOR**2
    if num_kept >= len(own):
        return 1.0
    if num_kept == 0:
        return threshold
    return own.kthvalue(num_kept).values.clamp(min=threshold)


def _nearest(full: int, small: int, device: torch.device) -> Tensor:
    """The ``small`` of ``full`` indices nearest to equal steps from corner to corner, a tie going to the greater."""
    step = (full - 1) / max(small - 1, 1)
    return (torch.arange(small, dtype=torch.float64, device=device) * step + 0.5).long()
