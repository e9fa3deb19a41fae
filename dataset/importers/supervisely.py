"""Supervisely: meta.json, and in every data set's folder img/X.jpg with ann/X.jpg.json.

A download has integer coordinates, which name pixels: corners lie in their centres, and a rectangle holds its last
row and column. Real coordinates are measured from the image's corner, as everywhere.
"""

import base64
import io
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from segdistill.dataset.importers.base import (
    MALFORMED,
    MISSING,
    Canvas,
    Export,
    Importer,
    Picture,
    Problems,
    Source,
    describe_error,
    hex_color,
    read_json,
)
from segdistill.dataset.importers.rasterize import Region

MASKS = "masks_human", "masks_machine"  # folders of pictures of the labels
MOST_BYTES = 1 << 28  # of a mask's PNG


def recognise(source: Source) -> str:
    metas = source.named("meta.json")
    return f"{metas[0].name} and ann/" if metas and annotation_files(source) else ""


def annotation_files(source: Source) -> list[Path]:
    return [path for path in source.having(".json") if path.parent.name == "ann"]


def read(source: Source, problems: Problems) -> Export:
    classes = {}
    for meta in source.named("meta.json"):
        for entry in read_json(meta)["classes"]:
            classes.setdefault(str(entry["title"]), hex_color(entry.get("color")))
    pictures = []
    for path in annotation_files(source):
        try:
            document = read_json(path)
            size = document["size"]["height"], document["size"]["width"]
            objects = document["objects"]
        except MALFORMED as error:
            problems.add(f"annotation files that cannot be read ({describe_error(error)}) left out", path)
            continue
        image = source.find_image(f"{path.parent.parent.name}/img/{path.stem}", path)
        if image is None:
            problems.add(MISSING, f"{path.stem} of {path}")
            continue
        pictures.append(Picture(image, source.split_of(image), partial(draw, objects), size))
    return Export(classes, pictures, known=source.images_in(*MASKS))


def draw(objects: list[dict], canvas: Canvas) -> None:
    canvas.each(objects, partial(draw_object, canvas))


def draw_object(canvas: Canvas, shape: dict) -> None:
    label, kind = shape["classTitle"], shape.get("geometryType") or shape["shape"]
    if kind == "polygon":
        rings = [shape["points"]["exterior"], *shape["points"].get("interior", ())]
        shift = 0.5 if name_pixels(rings) else 0.0
        canvas.polygon(label, *(np.array(ring, float) + shift for ring in rings))
    elif kind == "rectangle":
        corners = shape["points"]["exterior"]
        (x, x_end), (y, y_end) = map(sorted, zip(*corners, strict=True))
        last = int(name_pixels([corners]))
        canvas.box(label, x, y, x_end + last, y_end + last)
    elif kind == "bitmap":
        left, top = shape["bitmap"]["origin"]
        canvas.region(label, Region(read_bitmap(shape["bitmap"]["data"]), int(top), int(left)))
    else:
        canvas.skip(f"shapes of the kind {kind!r}, which have no area, left out")


def name_pixels(rings: list[list[list[float]]]) -> bool:
    return all(isinstance(number, int) for ring in rings for point in ring for number in point)


def read_bitmap(text: str) -> np.ndarray:
    """bool (h, w) of a PNG, compressed with zlib and in base 64; its alpha where it has one."""
    png = zlib.decompressobj().decompress(base64.b64decode(text), MOST_BYTES)
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        if "A" in image.getbands():
            return np.asarray(image.getchannel("A")) > 0
        return np.asarray(image) > 0 if image.mode == "P" else np.asarray(image.convert("L")) > 0


SUPERVISELY = Importer("supervisely", "Supervisely", recognise, read)
