"""CVAT for images 1.1: annotations.xml with polygons, boxes, ellipses and masks in the order of their z_order."""

from pathlib import Path
from xml.etree import ElementTree

from segdistill.dataset.files import read_bytes
from segdistill.dataset.importers.base import (
    MISSING,
    Canvas,
    Export,
    Importer,
    Picture,
    Problems,
    Source,
    hex_color,
    split_named,
)
from segdistill.dataset.importers.rasterize import Region
from segdistill.dataset.importers.runs import decode_runs

HEAD = 4096  # bytes in which the first element is


def recognise(source: Source) -> str:
    return next((f"{path.name} with <annotations>" for path in annotation_files(source)), "")


def annotation_files(source: Source) -> list[Path]:
    return [path for path in source.having(".xml") if b"<annotations" in head_of(path)]


def head_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def read(source: Source, problems: Problems) -> Export:
    classes, pictures = {}, []
    for path in annotation_files(source):
        root = parse(path)
        if root.find("track") is not None:
            raise ValueError(f"{path} is CVAT for video: export the task again as CVAT for images 1.1")
        for label in root.iterfind("meta//labels/label"):
            name = label.findtext("name")
            if name is None:
                problems.add("labels without a name left out", path)
            elif label.findtext("parent") is None:  # the parts of a skeleton have one
                classes.setdefault(name, hex_color(label.findtext("color")))
        for element in root.iterfind("image"):
            name = element.get("name")
            subset = element.get("subset", "")
            image = source.find_image(f"{subset}/{name}", path, split_named(subset))
            if image is None:
                problems.add(MISSING, f"{name} in {path}")
                continue
            size = int(element.get("height")), int(element.get("width"))
            split = split_named(subset) or source.split_of(image)
            pictures.append(Picture(image, split, Drawing(element), size))
    return Export(classes, pictures)


def parse(path: Path) -> ElementTree.Element:
    """Raises ValueError if it is no XML, or declares entities, which may expand without end."""
    data = read_bytes(path)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data or b"\0" in data[:HEAD]:
        raise ValueError(f"{path} has a DOCTYPE or is no UTF-8, which no CVAT export is: not read")
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is no XML ({error}): export it again") from error


class Drawing:
    """Draws the shapes of an <image> element."""

    def __init__(self, element: ElementTree.Element):
        self.element = element

    def __call__(self, canvas: Canvas) -> None:
        canvas.each(sorted(self.element, key=lambda shape: int(shape.get("z_order", 0))), lambda s: draw(canvas, s))


def draw(canvas: Canvas, shape: ElementTree.Element) -> None:
    label, values = shape.attrib["label"], shape.attrib
    numbers = {key: float(value) for key, value in values.items() if key in NUMBERS}
    degrees = numbers.get("rotation", 0.0)
    if shape.tag == "polygon":
        canvas.polygon(label, [[float(part) for part in point.split(",")] for point in values["points"].split(";")])
    elif shape.tag == "box":
        canvas.box(label, *(numbers[key] for key in ("xtl", "ytl", "xbr", "ybr")), degrees)
    elif shape.tag == "ellipse":
        canvas.ellipse(label, *(numbers[key] for key in ("cx", "cy", "rx", "ry")), degrees)
    elif shape.tag == "mask":
        left, top, width, height = (int(values[key]) for key in ("left", "top", "width", "height"))
        if height > canvas.size[0] or width > canvas.size[1]:
            return canvas.skip("masks that are larger than the image left out")
        mask = decode_runs([int(count) for count in values["rle"].split(",")], width * height)
        canvas.region(label, Region(mask.reshape(height, width), top, left))
    elif shape.tag != "tag":
        canvas.skip(f"shapes of the kind {shape.tag!r}, which have no area, left out")


NUMBERS = ("xtl", "ytl", "xbr", "ybr", "cx", "cy", "rx", "ry", "rotation")
CVAT = Importer("cvat", "CVAT for images", recognise, read)
