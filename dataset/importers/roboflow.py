"""Roboflow: its COCO export, a JSON file in each split's folder, and its semantic masks, X_mask.png beside X.jpg."""

import csv
from functools import partial
from pathlib import Path

from segdistill.dataset.importers.base import (
    Canvas,
    Export,
    Importer,
    Picture,
    Problems,
    Source,
    read_values,
)
from segdistill.dataset.importers.coco import ROBOFLOW as COCO_FILE
from segdistill.dataset.importers.coco import read_files

CLASSES_FILE, ENDING = "_classes.csv", "_mask"


def recognise(source: Source) -> str:
    files = source.named(COCO_FILE) or (source.named(CLASSES_FILE) if masks_of(source) else [])
    return files[0].name if files else ""


def masks_of(source: Source) -> list[Path]:
    return [path for path in source.images if path.stem.endswith(ENDING) and path.suffix.lower() == ".png"]


def read(source: Source, problems: Problems) -> Export:
    if files := source.named(COCO_FILE):
        return read_files(source, files, problems)
    tables = {path.parent: read_table(path) for path in source.named(CLASSES_FILE)}
    masks, pictures = masks_of(source), []
    for mask in masks:
        names = tables.get(mask.parent)
        image = source.find_image(mask.stem.removesuffix(ENDING), mask)
        if image is None or image.parent != mask.parent or names is None:
            problems.add(f"masks without an image or a {CLASSES_FILE} beside them left out", mask)
            continue
        pictures.append(Picture(image, source.split_of(image), partial(draw, mask, names)))
    classes = {name: None for names in tables.values() for _, name in sorted(names.items())}
    return Export(classes, pictures, whole=True, known=masks)


def read_table(path: Path) -> dict[int, str]:
    """Names of the lines "value, name" after the first, which is a heading."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    return {int(value): name.strip() for value, name in rows[1:]}


def draw(mask: Path, names: dict[int, str], canvas: Canvas) -> None:
    canvas.values(read_values(mask), names)


ROBOFLOW = Importer("roboflow", "Roboflow (COCO or semantic masks)", recognise, read)
