"""What an importer is: it recognises a tool's export and draws the labels of its pictures.

An importer is a file with two functions, ``recognise`` and ``read``, and a line in the registry.
"""

import json
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from segdistill.dataset.files import SUFFIXES, open_image, read_bytes
from segdistill.dataset.folder import VOID_NAMES
from segdistill.dataset.ids import IGNORE_INDEX
from segdistill.dataset.importers.rasterize import Region, box, ellipse, polygon
from segdistill.dataset.pairs import walk

Color = tuple[int, int, int]
Size = tuple[int, int]  # height, width
BACKGROUND = "background"
SPLITS = ("train", "val", "test")
SPLIT = re.compile(r"(train|val|test)(ing|id|idation)?\d*", re.IGNORECASE)
STRUCTURE = ("images", "image", "img", "imgs", "jpegimages", "default", "data", "obj_train_data")  # no names
SAMPLE = 24  # JSON files that are looked at to recognise a tool
MISSING = "annotated images that are not there, or more than once, left out"
# What reading a document of unexpected structure raises.
MALFORMED = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, OSError)
MALFORMED += (zlib.error, Image.DecompressionBombError)


class Problems:
    """Why something was not converted: how often, and where first; paths are below ``root``."""

    def __init__(self, root: Path):
        self.root = f"{root}{os.sep}" if root.name else ""
        self.found: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, where: str | Path) -> None:
        reason, where = reason.replace(self.root, ""), str(where).replace(self.root, "")
        count, first = self.found.get(reason, (0, where))
        self.found[reason] = count + 1, first

    def __str__(self) -> str:
        return "; ".join(f"{reason}, the first {where}" for reason, (_, where) in self.found.items())


class Canvas:
    """The label map of a picture, on which an importer draws; later shapes lie over earlier ones.

    Args:
        size: height and width.
        ids: the id of each class; others are left out. None is void.
        unlabelled: the id of pixels on which nothing lies.
        where: the annotation, for messages.
    """

    def __init__(self, size: Size, ids: dict[str, int], unlabelled: int, problems: Problems, where: str):
        self.size, self.ids, self.problems, self.where = size, ids, problems, where
        self.labels = np.full(size, unlabelled, np.uint8)
        self.num_shapes = 0

    def id_of(self, label: str | None) -> int | None:
        """The id of a class; None, with a line for the report, if it is not among those that are wanted."""
        if label is None or label.lower() in VOID_NAMES:
            return IGNORE_INDEX
        if label not in self.ids:
            self.problems.add(f"shapes of the class {label!r}, which is not among the classes, left out", self.where)
        return self.ids.get(label)

    def polygon(self, label: str | None, *rings: Sequence[Sequence[float]]) -> None:
        """Fill closed rings of (x, y) points; a ring in another is a hole."""
        arrays = [np.asarray(ring, float).reshape(-1, 2) for ring in rings]
        if len(arrays[0]) < 3:
            return self.skip("polygons of fewer than 3 points left out")
        arrays = [ring for ring in arrays if len(ring) > 2]
        points = np.concatenate(arrays)
        if not np.isfinite(points).all():
            return self.skip("polygons with points that are no numbers left out")
        if (points < 0).any() or (points > self.size[::-1]).any():
            self.problems.add("shapes that reach outside the image clipped", self.where)
        self.region(label, polygon(arrays, self.size))

    def box(self, label: str | None, x: float, y: float, x_end: float, y_end: float, degrees=0.0, about=None) -> None:
        (x, x_end), (y, y_end) = sorted((float(x), float(x_end))), sorted((float(y), float(y_end)))
        self.polygon(label, box(x, y, x_end, y_end, degrees, about))

    def ellipse(self, label: str | None, x: float, y: float, x_radius: float, y_radius: float, degrees=0.0) -> None:
        self.region(label, ellipse(x, y, x_radius, y_radius, self.size, degrees))

    def region(self, label: str | None, region: Region) -> None:
        """Lay a mask, bool (h, w), over what is there; what lies outside the image is cut off."""
        mask, top, left = region
        (height, width), (rows, columns) = self.size, mask.shape
        if top < 0 or left < 0 or top + rows > height or left + columns > width:
            self.problems.add("shapes that reach outside the image clipped", self.where)
            mask = mask[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
            top, left = max(top, 0), max(left, 0)
        if not mask.any():
            return self.skip("shapes that cover no pixel's centre left out")
        value = self.id_of(label)
        if value is not None:
            self.labels[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = value
            self.num_shapes += 1

    def values(self, values: np.ndarray, names: dict[int, str | None], describe: Callable[[int], str] = str) -> None:
        """Lay a whole label map over the picture: values (H, W) whose classes ``names`` gives; others are void."""
        if values.shape != self.size:
            raise ValueError("a label map of {1}x{0} for an image of {3}x{2}".format(*values.shape, *self.size))
        table = np.full(int(values.max()) + 1, -1, np.int16)
        for value in occurring(values):
            if value not in names:
                self.problems.add(f"pixels of the value {describe(value)}, which is no class, are void", self.where)
            new = self.id_of(names.get(value))
            table[value] = -1 if new is None else new
        ids = table[values]
        self.labels[ids >= 0] = ids[ids >= 0]
        self.num_shapes += 1

    def each(self, shapes: Iterable[Any], draw: Callable[[Any], None]) -> None:
        """Call ``draw`` for every shape; one that is not as expected is left out, with a line for the report."""
        for shape in shapes:
            try:
                draw(shape)
            except MALFORMED as error:
                self.skip(f"shapes that cannot be read ({describe_error(error)}) left out")

    def skip(self, reason: str) -> None:
        self.problems.add(reason, self.where)


class Picture(NamedTuple):
    """An image with what draws its labels; ``split`` is train, val, test or None; ``size`` is what the export says."""

    image: Path
    split: str | None
    draw: Callable[[Canvas], None]
    size: Size | None = None


class Export(NamedTuple):
    """classes: the colour of each, None where the tool gives none; whole: every pixel has a label; known: image files
    that are no pictures without labels: label maps, and what was named as a problem."""

    classes: dict[str, Color | None]
    pictures: list[Picture]
    whole: bool = False
    known: Collection[Path] = ()


class Source:
    """The files of an export.

    Args:
        path: its folder, or one annotation file in it: then others are not looked at.
        images: another folder with the images.
    """

    def __init__(self, path: Path, images: Path | None = None):
        self.root = path if path.is_dir() else path.parent
        self.files = [file for file in walk(self.root) if not file.name.startswith(".")]  # ._X.jpg of a Mac's archives
        if path.is_file():
            self.files = [file for file in self.files if file == path or file.suffix.lower() in SUFFIXES]
        self.images = [file for file in self.files if file.suffix.lower() in SUFFIXES]
        inside = {file.resolve() for file in self.images}
        more = walk(images) if images else []
        self.more_images = [f for f in more if f.suffix.lower() in SUFFIXES and f.resolve() not in inside]
        self.faults: list[str] = []  # of JSON files that were looked at

    def folders(self, file: Path) -> tuple[str, ...]:
        """The names of the folders below the root that hold a file; () for one that lies elsewhere."""
        return file.relative_to(self.root).parts[:-1] if file.is_relative_to(self.root) else ()

    def images_in(self, *folders: str) -> list[Path]:
        """The images that lie below a folder of one of these names."""
        return [image for image in self.images if {*folders} & {*self.folders(image)}]

    def having(self, suffix: str) -> list[Path]:
        return [file for file in self.files if file.suffix.lower() == suffix]

    def named(self, *names: str) -> list[Path]:
        return [file for file in self.files if file.name.lower() in names]

    @cached_property
    def documents(self) -> dict[Path, Any]:
        """The JSON files that can be read, SAMPLE at most, those in the fewest folders first."""
        found = {}
        for file in sorted(self.having(".json"), key=lambda file: len(file.parts))[:SAMPLE]:
            try:
                found[file] = read_json(file)
            except ValueError as error:
                self.faults.append(str(error))
        return found

    def document(self, path: Path) -> Any:
        """A JSON file's content. Raises ValueError that names the file and the place."""
        return self.documents[path] if path in self.documents else read_json(path)

    @cached_property
    def by_name(self) -> dict[str, list[Path]]:
        """Images by file name and by stem."""
        found = {}
        for file in [*self.images, *self.more_images]:
            for key in {file.name, file.stem}:
                found.setdefault(key, []).append(file)
        return found

    def find_image(self, name: str, near: Path, split: str | None = None, without: Sequence[str] = ()) -> Path | None:
        """The image that an export calls ``name``: a path, or its end, perhaps without the suffix.

        The one whose folders agree with most of the name, then one in a folder of the split, then the one closest to
        the file ``near``. ``without`` are folders of label maps. None if there is none, or if two fit equally well.
        """
        parts = PurePosixPath(name.replace("\\", "/")).parts
        named = self.by_name.get(parts[-1], ()) if parts else ()
        found = [file for file in named if not {*self.folders(file)} & {*without}]

        def fit(file: Path) -> tuple[int, bool, int]:
            in_split = split is not None and self.split_of(file) == split
            return common(parts[-2::-1], file.parent.parts[::-1]), in_split, common(near.parent.parts, file.parts)

        found.sort(key=fit)
        return found[-1] if found and (len(found) == 1 or fit(found[-1]) > fit(found[-2])) else None

    def split_of(self, file: Path) -> str | None:
        """The split that a folder of the file names, the innermost first."""
        return next(filter(None, map(split_named, reversed(self.folders(file)))), None)


class Importer(NamedTuple):
    """A tool. ``recognise`` says what it saw, or ""; ``read`` may raise what MALFORMED names."""

    name: str
    title: str
    recognise: Callable[[Source], str]
    read: Callable[[Source, Problems], Export]


def common(one: Sequence[str], other: Sequence[str]) -> int:
    """The number of first elements that are equal."""
    for count, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return count
    return min(len(one), len(other))


def split_named(name: str) -> str | None:
    match = SPLIT.fullmatch(name)
    return match[1].lower() if match else None


def split_in(name: str) -> str | None:
    """The split that a word of a file's name is, as in instances_val2017."""
    return next(filter(None, map(split_named, re.split(r"[^A-Za-z0-9]+", name))), None)


def read_json(path: Path) -> Any:
    """Raises ValueError that names the file and the place."""
    try:
        return json.loads(read_bytes(path).decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error})") from error


def hex_color(text: str | None) -> Color | None:
    """(R, G, B) of "#RRGGBB"; None for anything else."""
    match = re.fullmatch(r"#?([0-9a-fA-F]{6})", text or "")
    return tuple(bytes.fromhex(match[1])) if match else None


def occurring(values: np.ndarray) -> list[int]:
    """The values, 0 or more, that occur; unlike np.unique without sorting every pixel."""
    seen = np.zeros(int(values.max()) + 1, bool)
    seen[values] = True
    return np.flatnonzero(seen).tolist()


def read_values(path: Path) -> np.ndarray:
    """(H, W) integers: the values of a mask as they are stored, in 1 to 16 bits; the indices of a palette.

    Raises:
        ValueError: damaged, compressed with loss, or an image of colours.
    """
    image, storage = open_image(path, read_bytes(path))
    if image.format not in ("PNG", "BMP", "TIFF"):
        raise ValueError(f"{path} is a mask in {image.format}, which changes values")
    if image.mode in ("RGB", "RGBA"):
        channels = np.asarray(image.convert("RGB"))
        if (channels != channels[..., :1]).any():
            raise ValueError(f"{path} holds colours, not values")
        return channels[..., 0]
    if image.mode not in ("1", "L", "P", "I;16"):
        raise ValueError(f"{path} is a mask stored as {storage}, which is not read: save it with 8 bits")
    # Pillow stretches grey values of 2 and 4 bits to 0..255.
    return np.asarray(image).astype(np.uint16) // {"L;2": 85, "L;4": 17}.get(storage, 1)


def read_colors(path: Path) -> np.ndarray:
    """(H, W) int32: the colours of a mask as 0xRRGGBB. Raises ValueError as ``read_values``."""
    image, _ = open_image(path, read_bytes(path))
    if image.format not in ("PNG", "BMP", "TIFF"):
        raise ValueError(f"{path} is a mask in {image.format}, which changes values")
    return np.asarray(image.convert("RGB")).astype(np.int32) @ np.array((1 << 16, 1 << 8, 1), np.int32)


def describe_error(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"no {text}" if isinstance(error, KeyError) else text or type(error).__name__
