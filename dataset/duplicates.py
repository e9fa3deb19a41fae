"""Finds images of equal content, within a split and between training and validation."""

import filecmp
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path

from segdistill.dataset.base import SegmentationDataset
from segdistill.dataset.contents import Contents

PART = 1 << 16  # bytes of a file that are compared first
logger = logging.getLogger(__name__)


def duplicates(dataset: SegmentationDataset, contents: Contents) -> list[str]:
    """Warning text about images of the same content in a split."""
    seen, found = {}, []
    for pair in dataset.pairs:
        other = seen.setdefault(contents.of(pair.image), pair.image)
        if other is not pair.image:
            found.append(f"{pair.image} has the content of {other}")
    return [f"{len(found)} images occur twice, the first: {found[0]}"] if found else []


def shared_images(first: Sequence[Path], second: Sequence[Path]) -> list[tuple[Path, Path]]:
    """The files of ``second`` that have the content of one of ``first``, as (of first, of second).

    Only files of equal size are opened, and only those whose middle is equal are read.
    """
    sizes = [{path: size_of(path) for path in paths} for paths in (first, second)]
    common = {*sizes[0].values()} & {*sizes[1].values()} - {None}
    known, found = {}, []
    for path, size in sizes[0].items():
        if size in common:
            known.setdefault(part_of(path, size), path)
    for path, size in sizes[1].items():
        other = known.get(part_of(path, size)) if size in common else None
        if other and filecmp.cmp(other, path, shallow=False):
            found.append((other, path))
    return found


def size_of(path: Path) -> int | None:
    """Size of a file in bytes; None if it cannot be read."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def part_of(path: Path, size: int) -> tuple[int, int]:
    """Size and checksum of the middle of a file, where headers and black borders have no part."""
    with path.open("rb") as file:
        file.seek(max(0, size - PART) // 2)
        return size, zlib.crc32(file.read(PART))


def warn_of_shared_images(train_set: SegmentationDataset, val_set: SegmentationDataset | None) -> None:
    """Log a warning for images in both training and validation, or in the lists with and without labels."""
    images = [pair.image for pair in train_set.pairs]
    parts = [(images[train_set.num_labelled :], "images without labels")]
    if val_set:
        parts.append(([pair.image for pair in val_set.pairs], "validation"))
    labelled = images[: train_set.num_labelled]
    found = [("training", name, shared_images(labelled, others)) for others, name in parts]
    if val_set:
        found.append((parts[0][1], parts[1][1], shared_images(parts[0][0], parts[1][0])))
    for one, other, shared in found:
        if shared:
            logger.warning(
                "%d images are in %s and in %s, the first: %s and %s", len(shared), one, other, *map(str, shared[0])
            )
