"""COCO JSON: polygons and run lengths, compressed or not; crowds are void. Several files are splits, by their names."""

from functools import partial
from pathlib import Path

from segdistill.dataset.importers.base import (
    MISSING,
    Canvas,
    Export,
    Importer,
    Picture,
    Problems,
    Source,
    split_in,
)
from segdistill.dataset.importers.rasterize import Region
from segdistill.dataset.importers.runs import coco_mask

KEYS = {"images", "annotations", "categories"}
ROBOFLOW = "_annotations.coco.json"


def recognise(source: Source) -> str:
    files = [path for path, file in source.documents.items() if is_coco(file) and path.name != ROBOFLOW]
    return f"{files[0].name} with {', '.join(sorted(KEYS))}" if files else ""


def is_coco(document: object) -> bool:
    return isinstance(document, dict) and document.keys() >= KEYS


def read(source: Source, problems: Problems) -> Export:
    return read_files(source, source.having(".json"), problems)


def read_files(source: Source, paths: list[Path], problems: Problems) -> Export:
    classes, pictures = {}, []
    for path in paths:
        document = source.document(path)
        if not is_coco(document):
            problems.add("JSON files that are not COCO's left out", path)
            continue
        # Roboflow's first category is the project, of which the others are parts.
        parents = {category.get("supercategory") for category in document["categories"]}
        used = {annotation.get("category_id") for annotation in document["annotations"]}
        names = {
            category["id"]: str(category["name"])
            for category in document["categories"]
            if path.name != ROBOFLOW or category["id"] in used or category["name"] not in parents
        }
        classes |= dict.fromkeys(names.values())
        annotations = {}
        for annotation in document["annotations"]:
            annotations.setdefault(annotation.get("image_id"), []).append(annotation)
        split = source.split_of(path) or split_in(path.stem)
        for entry in document["images"]:
            image = source.find_image(entry["file_name"], path, split)
            if image is None:
                problems.add(MISSING, f"{entry['file_name']} in {path}")
                continue
            # Crowds lie under what is labelled one by one.
            shapes = sorted(annotations.get(entry["id"], ()), key=lambda shape: not shape.get("iscrowd"))
            size = (entry["height"], entry["width"]) if "height" in entry and "width" in entry else None
            pictures.append(Picture(image, split or source.split_of(image), partial(draw, shapes, names), size))
    return Export(classes, pictures)


def draw(annotations: list[dict], names: dict[int, str], canvas: Canvas) -> None:
    canvas.each(annotations, partial(draw_annotation, canvas, names))


def draw_annotation(canvas: Canvas, names: dict[int, str], annotation: dict) -> None:
    shape, category = annotation.get("segmentation"), annotation.get("category_id")
    if not shape:
        return canvas.skip("annotations without a segmentation (a box only) left out")
    if category not in names and not annotation.get("iscrowd"):
        return canvas.skip(f"annotations of the category {category!r}, which the file does not name, left out")
    label = None if annotation.get("iscrowd") else names[category]
    if isinstance(shape, dict):
        if tuple(shape["size"]) != canvas.size:
            return canvas.skip("run lengths of another size than the image left out")
        canvas.region(label, Region(coco_mask(shape)))
    else:
        for ring in shape:  # parts of one object, not holes
            canvas.polygon(label, list(zip(ring[::2], ring[1::2], strict=True)))


COCO = Importer("coco", "COCO JSON", recognise, read)
