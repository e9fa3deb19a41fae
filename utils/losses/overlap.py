"""Losses on labels that compare the regions of classes instead of pixels: Dice and Lovász."""

import torch
from torch import Tensor

from segdistill.utils.losses.base import IGNORE_INDEX, full_precision


@full_precision
def dice_loss(logits: Tensor, labels: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """1 - 2 |P_c Y_c| / (|P_c| + |Y_c|), P the probabilities and Y the labels; mean over all classes.

    A class without a labelled pixel counts 0. The sums are over the pixels of this process's batch. Milletari et al.,
    V-Net, 3DV 2016, for several classes.

    Args:
        logits: (N, C, H, W).
        labels: (N, H, W) integers in 0..C-1, or ``ignore_index``.

    Returns:
        Scalar in 0..1, float32 (float64 for float64 logits); 0 if no pixel is labelled.
    """
    num_classes, valid = logits.shape[1], labels != ignore_index
    places = labels.long().masked_fill(~valid, num_classes).flatten()
    probabilities = logits.softmax(dim=1).masked_fill(~valid[:, None], 0)
    own = probabilities.gather(1, labels.long().masked_fill(~valid, 0)[:, None]).flatten()
    nothing = logits.new_zeros(num_classes + 1)
    common = nothing.index_add(0, places, own)[:-1]
    pixels = nothing.index_add(0, places, torch.ones_like(own))[:-1]
    overlap = 2 * common / (probabilities.sum(dim=(0, 2, 3)) + pixels).clamp(min=1e-7)
    return ((1 - overlap) * (pixels > 0)).mean()


@full_precision
def lovasz_loss(logits: Tensor, labels: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """The Lovász extension of 1 - IoU at the errors of the probabilities; mean over the classes that occur.

    Over the labelled pixels of this process's batch. Berman et al., The Lovász-Softmax loss, CVPR 2018, eq. 9. It waits
    for the device to know these pixels and classes: sorting all pixels for all classes would take longer.

    Args, returns: see ``dice_loss``.
    """
    valid = labels != ignore_index
    probabilities, labels = logits.softmax(dim=1).movedim(1, -1)[valid], labels[valid].long()
    losses = []
    for number in labels.unique():
        truth = (labels == number).to(logits)
        errors, order = (truth - probabilities[:, number]).abs().sort(descending=True)
        truth = truth[order]
        # 1 - IoU of the k largest errors, for every k.
        intersection, union = truth.sum() - truth.cumsum(0), truth.sum() + (1 - truth).cumsum(0)
        jaccard = 1 - intersection / union
        losses.append(errors @ torch.cat([jaccard[:1], jaccard.diff()]))
    return torch.stack(losses).mean() if losses else logits.sum() * 0
