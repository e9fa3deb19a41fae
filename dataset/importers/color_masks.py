"""CVAT's segmentation masks, in Pascal VOC's layout: labelmap.txt and SegmentationClass/**/X.png in its colours."""

from functools import partial
from pathlib import Path

from segdistill.dataset.importers.base import (
    BACKGROUND,
    Canvas,
    Color,
    Export,
    Importer,
    Picture,
    Problems,
    Source,
    read_colors,
    split_in,
)
from segdistill.dataset.pairs import read_lines

MASKS, OBJECTS = "SegmentationClass", "SegmentationObject"


def recognise(source: Source) -> str:
    return f"labelmap.txt and {MASKS}" if source.named("labelmap.txt") and source.images_in(MASKS) else ""


def read(source: Source, problems: Problems) -> Export:
    labelmaps = source.named("labelmap.txt")
    if not labelmaps:
        raise ValueError(f"{source.root} holds no labelmap.txt, as an export of CVAT's masks does")
    classes = read_labelmap(labelmaps[0])
    names = {color[0] << 16 | color[1] << 8 | color[2]: name for name, color in classes.items()}
    names.setdefault(0, BACKGROUND)
    splits = {}
    for path in source.having(".txt"):
        if path.parent.name == "Segmentation":
            splits |= {Path(line.split()[0]).as_posix(): split_in(path.stem) for _, line in read_lines(path)}
    pictures = []
    for mask in source.images_in(MASKS):
        folders = source.folders(mask)
        name = "/".join([*folders[folders.index(MASKS) + 1 :], mask.stem])
        split = splits.get(name) or splits.get(mask.stem)
        image = source.find_image(name, mask, split, without=(MASKS, OBJECTS))
        if image is None:
            problems.add("masks without an image left out", mask)
            continue
        pictures.append(Picture(image, split or source.split_of(image), partial(draw, mask, names)))
    return Export(classes, pictures, whole=True, known=source.images_in(MASKS, OBJECTS))


def draw(mask: Path, names: dict[int, str], canvas: Canvas) -> None:
    canvas.values(read_colors(mask), names, lambda code: f"{code >> 16},{code >> 8 & 255},{code & 255}")


def read_labelmap(path: Path) -> dict[str, Color]:
    """Colours of the lines "name:R,G,B:parts:actions"; # begins a comment."""
    colors = {}
    for number, line in read_lines(path):
        if line.lstrip().startswith("#"):
            continue
        try:
            name, color = line.strip().rsplit(":", 3)[:2]
            red, green, blue = (int(part) for part in color.split(","))
        except ValueError:
            raise ValueError(f"{path}:{number}: expected name:R,G,B:parts:actions, not {line!r}") from None
        colors[name] = red, green, blue
    return colors


COLOR_MASKS = Importer("voc", "CVAT's segmentation masks (Pascal VOC)", recognise, read)
