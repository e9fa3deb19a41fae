"""YOLO segmentation: data.yaml, and for images/**/X.jpg a labels/**/X.txt with polygons in parts of the image."""

from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from segdistill.dataset.importers.base import Canvas, Export, Importer, Picture, Problems, Source
from segdistill.dataset.pairs import read_lines


def recognise(source: Source) -> str:
    configs = [path for path in configs_of(source) if b"names:" in path.read_bytes()]
    return f"{configs[0].name} with names" if configs else ""


def configs_of(source: Source) -> list[Path]:
    return source.having(".yaml") + source.having(".yml")


def read(source: Source, problems: Problems) -> Export:
    config = next(path for path in configs_of(source) if b"names:" in path.read_bytes())
    document = read_yaml(config)
    names = document["names"]
    names = {int(key): str(name) for key, name in (names.items() if isinstance(names, dict) else enumerate(names))}
    splits = {split: folders_of(document.get(split)) for split in ("train", "val", "test")}
    pictures = []
    for image in source.images:
        folders = source.folders(image)
        label = label_of(image, folders)
        if not label.is_file():
            problems.add("images without a labels file are background throughout", image)
        split = next((split for split, listed in splits.items() if any(holds(folders, f) for f in listed)), None)
        pictures.append(Picture(image, split or source.split_of(image), partial(draw, label, names)))
    return Export(dict.fromkeys(names.values()), pictures)


def read_yaml(path: Path) -> dict:
    try:
        import yaml
    except ModuleNotFoundError:
        raise ValueError(f"{path} is read with PyYAML, which is not installed: pip install pyyaml") from None
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(document, dict) or not isinstance(document.get("names"), dict | list):
        raise ValueError(f"{path} has no names: a list, or a table of numbers and names")
    return document


def folders_of(value: str | list[str] | None) -> list[tuple[str, ...]]:
    """The folders of a split as parts, without what leads out of the export."""
    values = [value] if isinstance(value, str) else value or []
    return [tuple(part for part in PurePosixPath(text).parts if part not in ("..", "/")) for text in values]


def holds(parts: tuple[str, ...], folder: tuple[str, ...]) -> bool:
    """Whether the parts of a folder follow one another in ``parts``."""
    length = len(folder)
    return any(parts[start : start + length] == folder for start in range(len(parts) - length + 1)) and bool(folder)


def label_of(image: Path, folders: tuple[str, ...]) -> Path:
    """The labels file of an image: its path with labels in place of the last folder images, or beside it."""
    parts = list(image.parts)
    if "images" in folders:
        parts[-2 - folders[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def draw(path: Path, names: dict[int, str], canvas: Canvas) -> None:
    lines = [line.split() for _, line in read_lines(path)] if path.is_file() else []
    canvas.each(lines, partial(draw_line, canvas, names))


def draw_line(canvas: Canvas, names: dict[int, str], fields: list[str]) -> None:
    value, numbers = int(fields[0]), np.array(fields[1:], float)
    if value not in names:
        return canvas.skip(f"lines of the class {value}, which data.yaml does not name, left out")
    if len(numbers) == 4:
        return canvas.skip("boxes, which are for detection, left out")
    canvas.polygon(names[value], numbers.reshape(-1, 2) * canvas.size[::-1])


YOLO = Importer("yolo", "YOLO segmentation", recognise, read)
