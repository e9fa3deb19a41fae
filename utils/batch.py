"""A training batch on the device, with the step's one collective operation."""

from typing import NamedTuple

import torch
from torch import Tensor

from segdistill.dataset import Normalization, Sample
from segdistill.dataset.base import is_labelled, void_value
from segdistill.utils.distributed import mean_over_processes


class Batch(NamedTuple):
    """A training batch.

    images: (N, 3, H, W) float32, normalised by the student's convention.
    labels: (N, H, W), as in ``Sample``: uint8 ids, 255 void, or floats, NaN void; an unlabelled image is all void.
    keys: (N, 2) int64, the epoch and the index of each sample.
    num_valid: scalar, the labelled pixels of a process's share of the global batch, on average. A sum over a share
        divided by it, averaged over the processes (as their gradients are), is the mean over the global batch.
    progress: 0..1, the completed share of the training.
    num_kept: as ``num_valid``, of the pixels that terms with void=mask count: the labelled ones and those of wholly
        unlabelled images. None where it is not known, then they count their own.
    unsure: (N, h, w) bool, at the stride of the teacher's logits: positions of wholly unlabelled images where its
        confidence is too low for its terms. None: none are.
    shown: as ``images``, what the teacher sees; None where it sees the same.
    num_partners: of the last images, that are to be mixed into as many unlabelled ones before them, see ``mix_batch``.
    """

    images: Tensor
    labels: Tensor
    keys: Tensor
    num_valid: Tensor
    progress: float
    num_kept: Tensor | None = None
    unsure: Tensor | None = None
    shown: Tensor | None = None
    num_partners: int = 0


def make_batches(
    sample: Sample,
    normalization: Normalization,
    device: torch.device | str = "cpu",
    memory_format: torch.memory_format = torch.contiguous_format,
    progress: float = 0.0,
    parts: int = 1,
    num_partners: int = 0,
    limits: tuple[float, float] | None = None,
) -> list[Batch]:
    """Split a collated sample into ``parts`` equal batches on the device.

    Args:
        num_partners: of the last images, which belong to the images before them: each goes where its partner goes.
        limits: labels beyond are void, see ``Task.limits``.

    Raises:
        ValueError: the samples do not divide into ``parts``.
    """
    size = len(sample.image) - num_partners
    if size % parts:
        raise ValueError(f"{size} samples do not divide into {parts} parts")
    # From pinned memory no copy waits for the device; uint8 images are a quarter of what the network sees.
    images, views, labels = (x.to(device, non_blocking=True) for x in (sample.image, sample.view, sample.label))
    if limits:
        labels = labels.masked_fill((labels < limits[0]) | (labels > limits[1]), void_value(labels))
    labelled = is_labelled(labels[:size]).flatten(1).sum(1).float()
    kept = labelled.masked_fill(labelled == 0, labels[0].numel())
    num_valid, num_kept = mean_over_processes(torch.stack([labelled.sum(), kept.sum()])) / parts
    batches = []
    for part in range(parts):
        # Every parts-th sample, so that labelled and unlabelled ones spread over the parts. By slices: a tensor of
        # indices would be copied to the device.
        first = size + (part - size + num_partners) % parts  # its first partner
        chosen = slice(part, size, parts), slice(first, None, parts)
        image, view, label, keys = (
            x if parts == 1 else torch.cat([x[own] for own in chosen]) for x in (images, views, labels, sample.key)
        )
        image, shown = (
            normalization(x).contiguous(memory_format=memory_format) if x.numel() else None for x in (image, view)
        )
        count = len(range(first, size + num_partners, parts))
        batches.append(Batch(image, label, keys, num_valid, progress, num_kept, shown=shown, num_partners=count))
    return batches


def join_batches(batches: list[Batch]) -> Batch:
    """Concatenate the parts of a batch."""
    if len(batches) == 1:
        return batches[0]
    first, parts = batches[0], len(batches)
    images, labels, keys = (torch.cat([batch[i] for batch in batches]) for i in range(3))
    num_kept = None if first.num_kept is None else first.num_kept * parts
    unsure = None if first.unsure is None else torch.cat([batch.unsure for batch in batches])
    return Batch(images, labels, keys, first.num_valid * parts, first.progress, num_kept, unsure=unsure)


def without_unsure(batch: Batch, logits: Tensor, min_confidence: float) -> Batch:
    """The batch with ``unsure`` where the best class of the teacher's ``logits`` (N, C, h, w) is less probable."""
    unlabelled = ~is_labelled(batch.labels).flatten(1).any(1)
    confidence = logits.float().softmax(1).amax(1)
    return batch._replace(unsure=(confidence < min_confidence) & unlabelled[:, None, None])
