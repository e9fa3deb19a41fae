"""LabelMe: a JSON file beside each image, with shapes in its pixels; labels.txt where the project has one."""

import base64
import io
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from segdistill.dataset.importers.base import (
    MISSING,
    Canvas,
    Export,
    Importer,
    Picture,
    Problems,
    Source,
    read_json,
)
from segdistill.dataset.importers.rasterize import Region
from segdistill.dataset.pairs import read_lines

LABELS = "labels.txt"
IGNORED = "__ignore__"  # LabelMe's name of void


def recognise(source: Source) -> str:
    return next((f"{path.name} with shapes" for path, file in source.documents.items() if is_labelme(file)), "")


def is_labelme(document: object) -> bool:
    shapes = document.get("shapes") if isinstance(document, dict) else None
    if not isinstance(shapes, list) or not isinstance(document.get("imagePath"), str):
        return False
    return all(isinstance(shape, dict) and isinstance(shape.get("label"), str) for shape in shapes)


def read(source: Source, problems: Problems) -> Export:
    listed = [line.strip() for path in source.named(LABELS) for _, line in read_lines(path)]
    labels, pictures = set(), []
    for path in source.having(".json"):
        try:
            document = read_json(path)
        except ValueError as error:
            problems.add(str(error), path)
            continue
        if not is_labelme(document):
            problems.add("JSON files that are not LabelMe's left out", path)
            continue
        image = source.find_image(document["imagePath"], path) or source.find_image(path.stem, path)
        if image is None:
            problems.add(MISSING, f"{document['imagePath']} in {path}")
            continue
        height, width = document.get("imageHeight"), document.get("imageWidth")
        labels |= {shape["label"] for shape in document["shapes"]}
        size = (height, width) if height and width else None
        pictures.append(Picture(image, source.split_of(image), partial(draw, path), size))
    names = [name for name in dict.fromkeys([*listed, *sorted(labels)]) if name != IGNORED]
    return Export(dict.fromkeys(names), pictures)


def draw(path: Path, canvas: Canvas) -> None:
    # Read again: with the image in it, a file is too large to keep.
    canvas.each(read_json(path)["shapes"], partial(draw_shape, canvas))


def draw_shape(canvas: Canvas, shape: dict) -> None:
    label = None if shape["label"] == IGNORED else shape["label"]
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    if kind in ("polygon", "oriented_rectangle"):
        canvas.polygon(label, points)
    elif kind == "rectangle":
        canvas.box(label, *points[0], *points[1])
    elif kind == "circle":
        (x, y), on_it = points
        radius = float(np.hypot(on_it[0] - x, on_it[1] - y))
        canvas.ellipse(label, x, y, radius, radius)
    elif kind == "mask":
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=["PNG"]) as image:
            mask = np.asarray(image.convert("L")) > 0
        canvas.region(label, Region(mask, int(points[0][1]), int(points[0][0])))
    else:
        canvas.skip(f"shapes of the kind {kind!r}, which have no area, left out")


LABELME = Importer("labelme", "LabelMe", recognise, read)
