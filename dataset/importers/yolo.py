"""YOLO segmentation: data.yaml, and for images/**/X.jpg a labels/**/X.txt with polygons in parts of the image."""

from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from segdistill.dataset.importers.base import SPLITS, Canvas, Export, Importer, Picture, Problems, Source
from segdistill.dataset.pairs import read_lines


def recognise(source: Source) -> str:
    configs = configs_of(source)
    return f"{configs[0].name} with names" if configs else ""


def configs_of(source: Source) -> list[Path]:
    return [path for path in source.having(".yaml") + source.having(".yml") if b"names:" in path.read_bytes()]


def read(source: Source, problems: Problems) -> Export:
    configs = configs_of(source)
    if not configs:
        raise ValueError(f"{source.root} holds no data.yaml with names, as a YOLO export does")
    document = read_yaml(configs[0])
    names = document["names"]
    names = {int(key): str(name) for key, name in (names.items() if isinstance(names, dict) else enumerate(names))}
    splits = read_splits(source, configs[0], document, problems)
    pictures = []
    for image in source.images:
        label = label_of(image, source.folders(image))
        if not label.is_file():
            problems.add("images without a labels file are background throughout", image)
        pictures.append(Picture(image, splits.get(image) or source.split_of(image), partial(draw, label, names)))
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


def read_splits(source: Source, config: Path, document: dict, problems: Problems) -> dict[Path, str]:
    """The split of each image that the lists and folders of data.yaml name; a list or an inner folder counts first."""
    below = f"{source.root.resolve()}/"  # where paths are absolute
    entries = [(split, text.removeprefix(below)) for split in SPLITS for text in texts_of(document.get(split))]
    splits = {}
    for split, text in sorted(entries, key=lambda entry: (not is_list(entry[1]), -len(parts_of(entry[1])))):
        images = read_list(source, text, problems) if is_list(text) else images_below(source, text)
        if not images:
            problems.add(f"{split}: {text} of {config.name} is no folder or list of images here", config)
        splits = dict.fromkeys(images, split) | splits
    return splits


def texts_of(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def is_list(text: str) -> bool:
    return text.endswith(".txt")


def parts_of(text: str) -> tuple[str, ...]:
    """The parts of a path, without what leads out of the export."""
    return tuple(part for part in PurePosixPath(text).parts if part not in ("..", "/"))


def read_list(source: Source, text: str, problems: Problems) -> list[Path]:
    """The images in the lines of a list; of several files of its name the one in the fewest folders."""
    files = [file for file in source.having(".txt") if holds((*source.folders(file), file.name), parts_of(text))]
    images = []
    for file in sorted(files, key=lambda file: len(file.parts))[:1]:
        for _, line in read_lines(file):
            image = source.find_image(line.strip(), file)
            if image is None:
                problems.add("listed images that are not there, or more than once, left out", f"{line} in {file}")
            else:
                images.append(image)
    return images


def images_below(source: Source, text: str) -> list[Path]:
    return [image for image in source.images if holds(source.folders(image), parts_of(text))]


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
