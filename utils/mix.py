"""Mixing images without labels: a part of another image is pasted into each, and of the teacher's maps alike.

    python train.py --T_ckpt_path ckpt/teacher.pth --kd --unlabelled-list FILE --mix classmix

The teacher sees both images as they are, the student the mixture. The mask is a function of (seed, epoch, index) of the
image that is pasted into, and with classmix of the teacher's prediction.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from segdistill.dataset.base import generator_of
from segdistill.network import SegmentationOutput
from segdistill.utils.batch import Batch
from segdistill.utils.losses.base import resize_labels
from segdistill.utils.predict import best_classes


def box(classes: Tensor, generator: torch.Generator) -> Tensor:
    """A rectangle of half the area, its ratio of sides and its place at random."""
    height, width = classes.shape
    tall, down, right = torch.rand(3, generator=generator).tolist()
    rows, columns = round(height * 0.5**tall), round(width * 0.5 ** (1 - tall))
    top, left = round(down * (height - rows)), round(right * (width - columns))
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top : top + rows, left : left + columns] = True
    return mask


def half_of_the_classes(classes: Tensor, generator: torch.Generator) -> Tensor:
    """The pixels of half of the classes that occur, rounded down as in the authors' code; none of a single class."""
    drawn = torch.rand(256, generator=generator).to(classes.device, non_blocking=True)
    ids = classes.flatten().long()
    occurs = torch.zeros_like(drawn, dtype=torch.bool).index_fill_(0, ids, True)
    order = drawn.masked_fill(~occurs, 1).argsort().argsort()  # those that occur are before the others
    return (order < occurs.sum() // 2)[ids].view_as(classes)


class Mix(NamedTuple):
    """mask: from an image's classes (H, W) and a generator to the pixels of it to paste, bool (H, W); reads_classes: of
    the teacher's prediction, else the classes are all 0; meaning: for --list-augmentations."""

    mask: Callable[[Tensor, torch.Generator], Tensor]
    reads_classes: bool
    meaning: str


MIXES: dict[str, Mix] = {
    "cutmix": Mix(box, False, "a rectangle of half the area; French et al., BMVC 2020"),
    "classmix": Mix(
        half_of_the_classes, True, "the pixels of half of the classes that the teacher sees; Olsson et al., WACV 2021"
    ),
}


def describe_mixes() -> str:
    """A line each: name and meaning."""
    width = max(map(len, MIXES))
    return "\n".join(f"  {name:{width}}  {mix.meaning}" for name, mix in MIXES.items())


def mix_batch(batch: Batch, output: SegmentationOutput, name: str, seed: int) -> tuple[Batch, SegmentationOutput]:
    """The batch without its partners, which are pasted in part into the images before them, and the teacher's maps.

    Args:
        batch, output: with ``batch.num_partners`` images at the end, and as many before them to paste into.
        name: of MIXES.
        seed: of the training.
    """
    count, size = batch.num_partners, batch.images.shape[2:]
    if MIXES[name].reads_classes:
        classes = best_classes(output.logits[-count:], size)
    else:
        classes = torch.zeros(count, *size, dtype=torch.uint8)
    keys = batch.keys[-2 * count : -count].tolist()
    masks = [MIXES[name].mask(one, generator_of("mix", seed, *key)) for one, key in zip(classes, keys, strict=True)]
    pasted = torch.stack(masks).to(batch.images.device, non_blocking=True)

    def paste(maps: Tensor) -> Tensor:
        """Of images, or of maps (N, ..., h, w) at any stride."""
        mixed, mask = maps[:-count].clone(), resize_labels(pasted, maps.shape[-2:])
        mask = mask[:, None] if maps.dim() == 4 else mask
        mixed[-count:] = torch.where(mask, maps[-count:], mixed[-count:])
        return mixed

    features = {feature: paste(maps) for feature, maps in output.features.items()}
    own = batch._replace(
        images=paste(batch.images),
        labels=batch.labels[:-count],
        keys=batch.keys[:-count],
        unsure=None if batch.unsure is None else paste(batch.unsure),
        shown=None,
        num_partners=0,
    )
    return own, SegmentationOutput(features.get("logits"), features)
