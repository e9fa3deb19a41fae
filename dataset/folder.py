"""`folder`: your own data without Python: images, labels, and a text file that describes the label values."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from segdistill.dataset.base import Recipe, SegmentationDataset
from segdistill.dataset.depth import DEPTH_SUFFIXES, DepthRange, Storage
from segdistill.dataset.files import SUFFIXES
from segdistill.dataset.ids import IGNORE_INDEX, encode
from segdistill.dataset.pairs import Pair, pair_up, read_lines, walk

CLASSES_FILE = "classes.txt"
DEPTH_FILE = "depth.txt"
CARD = "'scale METRES', 'range MIN MAX' in metres and, if so, 'kind disparity'"
CONVERT = "`python -m segdistill.dataset convert EXPORT DIR`"
VOID_NAMES = ("ignore", "void", "unlabeled", "unlabelled", "unknown")  # in any case
EXPECTED = "'VALUE R,G,B NAME' with VALUE 0..255, or rgb where labels hold the colours; NAME ignore is void"


class Row(NamedTuple):
    value: int | None
    color: tuple[int, int, int]
    name: str

    @property
    def is_void(self) -> bool:
        return self.name.lower() in VOID_NAMES


class Folder(SegmentationDataset):
    """``<root>/images/<split>/**/X.jpg`` with ``<root>/labels/<split>/**/X.png`` and ``<root>/classes.txt``.

    A line of classes.txt is a value of the label files, a colour and a name, which may contain spaces; # begins a
    comment::

        7    128,64,128   road
        8    244,35,232   side walk
        255  0,0,0        ignore

    Lines of one name are one class; those named ignore, void, unlabeled, unlabelled or unknown are void. With ``rgb``
    in place of every value the labels hold the colours themselves, as RGB or palette images.

    Depth: ``<root>/depth/<split>/**/X.png`` (16 bits), .tif, .npy or .pfm, and ``<root>/depth.txt``, see ``read_card``.

    Raises:
        FileNotFoundError: no classes.txt, or depth.txt.
        ValueError: a line of it that means nothing or contradicts another; names file and line. Fewer than two classes.
    """

    TASKS = ("segmentation", "depth")
    # Of an instance: its folder says.
    CLASSES = PALETTE = ()
    ID_TO_TRAIN_ID = {}
    RECIPE = Recipe(scale_range=(0.5, 2.0))
    BY_HAND = (
        f"it is your own files, images/<split>/, labels/<split>/ and classes.txt; {CONVERT} makes them from the export "
        "of a labelling tool or from binary masks (see docs/datasets.md)"
    )

    def __init__(self, root: str | Path, split: str, task: str | None = None, **options):
        if task == "depth":
            self.DEPTH_STORAGE, self.DEPTH_RANGE = read_card(Path(root) / DEPTH_FILE)
        else:
            self._read_classes(Path(root) / CLASSES_FILE)
        super().__init__(root, split, task=task, **options)

    def _read_classes(self, path: Path) -> None:
        rows = read_rows(path)
        colors = {}
        for row in rows:
            if not row.is_void:
                colors.setdefault(row.name, row.color)
        self.CLASSES, self.PALETTE = tuple(colors), tuple(colors.values())
        if len(self.CLASSES) < 2:
            names = f"one class, {self.CLASSES[0]!r}" if colors else "no class"
            raise ValueError(
                f"{path} names {names}; two are the least, background is one of them. A line is {EXPECTED}"
            )
        if len(self.CLASSES) > IGNORE_INDEX:
            raise ValueError(f"{path} names {len(self.CLASSES)} classes; at most {IGNORE_INDEX} have an 8-bit id")
        train_ids = [self.CLASSES.index(row.name) if row.name in colors else IGNORE_INDEX for row in rows]
        self.in_colors = rows[0].value is None
        keys = [pack(row.color) if self.in_colors else row.value for row in rows]
        self.ID_TO_TRAIN_ID = dict(zip(keys, train_ids, strict=True))
        self.LABEL_HINT = (
            f"{path} says what labels hold: add what is missing there, or, if these are binary masks, {CONVERT} makes "
            "ids of them."
        )

    @classmethod
    def recipe_of(cls, root: str | Path | None) -> Recipe:
        """The class's recipe with a crop no larger than the median training image, sides in multiples of 16."""
        images = [path for path in walk(Path(root or "") / "images/train") if path.suffix.lower() in SUFFIXES]
        return cls.RECIPE.fitted(images)

    def find_pairs(self) -> list[Pair]:
        def key(path: Path) -> str:
            return "/".join(path.with_suffix("").relative_to(self.root).parts[1:])

        images = self.list_images(f"images/{self.split}", recursive=True)
        if self.task == "depth":
            labels = self.list_images(f"depth/{self.split}", recursive=True, suffixes=DEPTH_SUFFIXES)
        else:
            labels = self.list_images(f"labels/{self.split}", recursive=True)
        if self.split == "test" and not labels:
            return [Pair(image, None) for image in images]
        return pair_up(images, labels, f"{self.root} {self.split}", key)

    def to_train_ids(self, label: Image.Image, path: Path) -> np.ndarray:
        if not self.in_colors:
            return super().to_train_ids(label, path)
        codes = np.asarray(label.convert("RGB"), np.int32) @ (1 << 16, 1 << 8, 1)
        known, train_ids = map(np.array, zip(*sorted(self.ID_TO_TRAIN_ID.items()), strict=True))
        place = np.searchsorted(known, codes).clip(max=len(known) - 1)
        wrong = np.unique(codes[known[place] != codes])
        if len(wrong):
            colors = [(code >> 16, code >> 8 & 255, code & 255) for code in wrong[:5].tolist()]
            raise ValueError(f"{path} holds {len(wrong)} colours of no class, {colors} first. {self.LABEL_HINT}")
        return train_ids[place].astype(np.uint8)

    def encode(self, train_ids: np.ndarray) -> np.ndarray:
        """Train ids (H, W) uint8 as the label files hold them: ids (H, W), or colours (H, W, 3) with black for void."""
        if self.in_colors:
            return np.array([*self.PALETTE, *[(0, 0, 0)] * (256 - len(self.PALETTE))], np.uint8)[train_ids]
        return encode(self.ID_TO_TRAIN_ID, train_ids)


def read_card(path: Path) -> tuple[Storage, DepthRange]:
    """depth.txt: lines ``key value``, # begins a comment::

        scale 0.001     # metres of a stored unit: the files hold millimetres
        range 0.1 10    # metres; what lies outside is void
        kind depth      # or disparity: depth is scale / value, the scale focal length x baseline

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that means nothing, or one that is missing; names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; it says what the depth files hold, lines {CARD}")
    found: dict[str, list[str]] = {}
    for number, line in read_lines(path):
        key, *values = line.partition("#")[0].split() or [""]
        if key and (key not in ("scale", "range", "kind") or key in found):
            raise ValueError(f"{path}:{number}: expected lines {CARD}, each once, not {line!r}")
        found |= {key: values} if key else {}
    try:
        (scale,), (low, high) = map(float, found["scale"]), map(float, found["range"])
        (kind,) = found.get("kind", ["depth"])
    except (KeyError, ValueError):
        raise ValueError(f"{path}: expected lines {CARD}") from None
    if not (0 < scale < math.inf and 0 < low < high < math.inf and kind in ("depth", "disparity")):
        raise ValueError(f"{path}: expected numbers above 0, the smaller end first, and lines {CARD}")
    return Storage(scale, kind == "disparity"), DepthRange(low, high)


def read_rows(path: Path) -> list[Row]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}; it says what the labels hold, a line {EXPECTED}. {CONVERT} writes a whole folder "
            "from the export of a labelling tool or from binary masks"
        )
    rows, seen = [], {}
    for number, line in read_lines(path):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        row = read_row(line, f"{path}:{number}")
        if rows and (row.value is None) != (rows[0].value is None):
            raise ValueError(f"{path}:{number}: rgb is for every line or for none")
        key = row.color if row.value is None else row.value
        if key in seen:
            raise ValueError(f"{path}:{number}: {key} is {seen[key]!r} already; it cannot be {row.name!r} too")
        seen[key] = row.name
        other = next((other for other in rows if other.color == row.color and not other.is_void), row)
        if other.name != row.name and not row.is_void:
            raise ValueError(f"{path}:{number}: {row.name!r} has the colour of {other.name!r}: give it another")
        rows.append(row)
    return rows or [Row(0, (0, 0, 0), "ignore")]


def read_row(line: str, where: str) -> Row:
    fields = line.split(None, 2)
    try:
        value, color, name = fields
        value = None if value == "rgb" else int(value)
        red, green, blue = map(int, color.split(","))
    except ValueError:
        raise ValueError(f"{where}: expected {EXPECTED}, not {line!r}") from None
    if not all(0 <= number <= 255 for number in (value or 0, red, green, blue)):
        raise ValueError(f"{where}: values and colours are 0..255, not {line!r}")
    return Row(value, (red, green, blue), name)


def write_classes(colors: Mapping[str, tuple[int, int, int]], path: Path) -> None:
    """Write a classes.txt of ids 0, 1 ... in the order of ``colors``, names to RGB, and 255 as void."""
    rows = [(value, color, name) for value, (name, color) in enumerate(colors.items())]
    rows.append((IGNORE_INDEX, (0, 0, 0), "ignore"))
    text = "".join(f"{value}\t{','.join(map(str, color))}\t{name}\n" for value, color, name in rows)
    path.write_text(text, encoding="utf-8")


def pack(color: tuple[int, int, int]) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]
