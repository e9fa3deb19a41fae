"""Masks without a list of classes: X_mask.png beside X.jpg, or images/ and masks/; binary ones, ids or colours."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from segdistill.dataset.importers.base import (
    BACKGROUND,
    Canvas,
    Color,
    Export,
    Importer,
    Picture,
    Problems,
    Source,
    occurring,
    read_colors,
    read_values,
)

FOLDERS = ("masks", "mask", "labels", "label", "annotations", "gt", "segmentation")
ENDINGS = ("_mask", "_label", "_seg", "_gt", "-mask", ".mask")
FOREGROUND = "foreground"
BINARY = ({0, 1}, {0, 255}, {0}, {1}, {255})


def recognise(source: Source) -> str:
    masks = masks_of(source)
    return f"masks such as {masks[0].relative_to(source.root)}" if masks else ""


def masks_of(source: Source) -> list[Path]:
    return [path for path in source.images if stem_of(path) != path.stem or is_in_folder(source.folders(path))]


def stem_of(mask: Path) -> str:
    return next((mask.stem[: -len(end)] for end in ENDINGS if mask.stem.lower().endswith(end)), mask.stem)


def is_in_folder(folders: Sequence[str]) -> bool:
    return any(folder.lower() in FOLDERS for folder in folders)


def read(source: Source, problems: Problems) -> Export:
    masks = masks_of(source)
    others, pairs = {}, []
    for image in sorted({*source.images} - {*masks}):
        others.setdefault(image.stem, []).append(image)
    for mask in masks:
        found = others.get(stem_of(mask), [])
        split = source.split_of(mask)
        same = [image for image in found if source.split_of(image) == split and image.parent.name == mask.parent.name]
        found = [image for image in found if image.parent == mask.parent] or same or found
        if len(found) == 1:
            pairs.append((found[0], mask))
        else:
            problems.add("masks without an image, or with several, left out", mask)
    known = [*masks, *(image for image, _ in pairs)]
    read_mask, counts, pairs = read_all(pairs, problems)
    if read_mask is read_values:
        names = names_of_values(counts, source.root)
        classes = dict.fromkeys(name for name in names.values() if name)
    else:
        names, classes = names_of_colors(counts, source.root)
    pictures = [Picture(image, source.split_of(image), partial(draw, mask, read_mask, names)) for image, mask in pairs]
    return Export(classes, pictures, whole=True, known=known)


def read_all(
    pairs: list[tuple[Path, Path]], problems: Problems
) -> tuple[Callable[[Path], np.ndarray], Counter[int] | set[int], list[tuple[Path, Path]]]:
    """How the masks are to be read, the pixels of each value or the colours that occur, and the pairs that are left."""
    values, colors, are_values, left = Counter(), set(), True, []
    for image, mask in pairs:
        try:
            colors |= {*occurring(read_colors(mask))}
        except ValueError as error:
            problems.add(str(error), mask)
            continue
        left.append((image, mask))
        try:
            counts = np.bincount(read_values(mask).ravel())
            values.update({value: int(counts[value]) for value in np.flatnonzero(counts).tolist()})
        except ValueError:  # it holds colours
            are_values = False
    return (read_values, values, left) if are_values else (read_colors, colors, left)


def names_of_values(counts: Counter[int], root: Path) -> dict[int, str | None]:
    """Binary masks are background and foreground; other values are classes by number, 255 void."""
    if {*counts} in BINARY:
        return {value: FOREGROUND if value else BACKGROUND for value in (0, 1, 255)}
    if are_blurred(counts):
        raise ValueError(
            f"{root}: masks of {len(counts)} grey values: edges that are blurred? Threshold them to 0 and 255. If "
            "the values are classes and 255 is void, write classes.txt (see docs/datasets.md)"
        )
    return {value: None if value == 255 else f"class {value}" for value in sorted(counts)}


def are_blurred(counts: Counter[int]) -> bool:
    """Whether 255 is the foreground of masks with smooth edges, not void: what lies between 0 and it is many values,
    or few pixels."""
    between = [value for value in counts if 0 < value < 255]
    if len(between) < 3 or max(between) < 64 or not counts[0]:
        return False
    return counts[255] > 4 * sum(counts[value] for value in between) or (len(between) > 64 and counts[254] > 0)


def names_of_colors(codes: set[int], root: Path) -> tuple[dict[int, str], dict[str, Color]]:
    colors = [(code >> 16, code >> 8 & 255, code & 255) for code in sorted(codes)]
    named = {"colour {} {} {}".format(*color): color for color in colors}
    if len(named) > 255:
        raise ValueError(f"{root}: masks of {len(named)} colours: edges that are blurred, or photographs?")
    return dict(zip(sorted(codes), named, strict=True)), named


def draw(mask: Path, read_mask: Callable[[Path], np.ndarray], names: dict[int, str | None], canvas: Canvas) -> None:
    canvas.values(read_mask(mask), names)


MASKS = Importer("masks", "masks beside images", recognise, read)
