"""Label Studio's JSON export: tasks with polygons, rectangles and ellipses in percent of the image, and brush masks."""

import re
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from segdistill.dataset.files import SUFFIXES
from segdistill.dataset.importers.base import MISSING, Canvas, Export, Importer, Picture, Problems, Source
from segdistill.dataset.importers.rasterize import Region
from segdistill.dataset.importers.runs import brush_values

UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what an upload puts before a file's name


def recognise(source: Source) -> str:
    files = [path for path, file in source.documents.items() if is_tasks(file) or is_minimal(file)]
    return f"{files[0].name} with tasks" if files else ""


def is_tasks(document: object) -> bool:
    keys = keys_of(document)
    return "data" in keys and bool({"annotations", "completions"} & keys)


def is_minimal(document: object) -> bool:
    return keys_of(document) >= {"annotation_id", "annotator"}


def keys_of(document: object) -> set[str]:
    """Of the first task of a list."""
    task = document[0] if isinstance(document, list) and document else None
    return {*task} if isinstance(task, dict) else set()


def read(source: Source, problems: Problems) -> Export:
    labels, pictures = set(), []
    for path in source.having(".json"):
        document = source.document(path)
        if is_minimal(document):
            raise ValueError(f"{path} is Label Studio's JSON-MIN, which leaves out what is needed: export it as JSON")
        if not is_tasks(document):
            problems.add("JSON files that are not Label Studio's left out", path)
            continue
        for task in document:
            where = f"task {task.get('id')} in {path}"
            results = results_of(task)
            if results is None:
                problems.add("tasks without an annotation left out", where)
                continue
            image = image_of(source, task, path)
            if image is None:
                problems.add(MISSING, f"{task['data']} of {where}"[:200])
                continue
            labels |= {label for result in results if (label := label_of(result))}
            sizes = {(r["original_height"], r["original_width"]) for r in results if "original_height" in r}
            size = sizes.pop() if sizes else None
            pictures.append(Picture(image, source.split_of(image), partial(draw, results), size))
    return Export(dict.fromkeys(sorted(labels)), pictures)


def results_of(task: dict) -> list[dict] | None:
    """The regions of the annotation that counts: the ground truth if one is marked, else the last one submitted."""
    annotations = task.get("annotations", task.get("completions"))
    done = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    done.sort(key=lambda annotation: bool(annotation.get("ground_truth")))
    return done[-1]["result"] if done else None


def image_of(source: Source, task: dict, near: Path) -> Path | None:
    for address in task["data"].values():
        if not isinstance(address, str):
            continue
        parts = urlsplit(address)
        name = unquote(parse_qs(parts.query).get("d", [parts.path])[0])
        if Path(name).suffix.lower() in SUFFIXES:
            short = UPLOADED.sub("", Path(name).name)
            return source.find_image(name, near) or source.find_image(short, near)
    return None


def label_of(result: dict) -> str | None:
    labels = result.get("value", {}).get(result.get("type"))
    return labels[0] if isinstance(labels, list) and labels and isinstance(labels[0], str) else None


def draw(results: list[dict], canvas: Canvas) -> None:
    canvas.each(results, partial(draw_region, canvas))


def draw_region(canvas: Canvas, result: dict) -> None:
    kind, value = result["type"], result["value"]
    label, (height, width) = label_of(result), canvas.size
    if kind in ("choices", "textarea", "rating", "keypointlabels", "relation"):
        return canvas.skip(f"results of the kind {kind!r}, which have no area, left out")
    if label is None:
        return canvas.skip(f"regions of the kind {kind!r} without a label left out")
    if result.get("image_rotation"):
        return canvas.skip("regions of images that were turned in the tool left out: turn the image file instead")
    x, y = value.get("x", 0) * width / 100, value.get("y", 0) * height / 100
    if kind == "polygonlabels":
        canvas.polygon(label, np.array(value["points"], float) * (width / 100, height / 100))
    elif kind == "rectanglelabels":
        end = x + value["width"] * width / 100, y + value["height"] * height / 100
        canvas.box(label, x, y, *end, value.get("rotation", 0), (x, y))
    elif kind == "ellipselabels":
        radii = value["radiusX"] * width / 100, value["radiusY"] * height / 100
        canvas.ellipse(label, x, y, *radii, value.get("rotation", 0))
    elif kind == "brushlabels":
        alpha = brush_values(bytes(value["rle"]), height * width * 4).reshape(height, width, 4)[..., 3]
        canvas.region(label, Region(alpha > 0))
    else:
        canvas.skip(f"regions of the kind {kind!r} left out")


LABEL_STUDIO = Importer("label_studio", "Label Studio (JSON)", recognise, read)
