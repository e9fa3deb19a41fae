"""The base class of all data sets: a split of image and label files, read as samples with train ids."""

import hashlib
import logging
import math
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from segdistill.dataset.depth import DepthRange, Storage, depth_of, read_values
from segdistill.dataset.files import SUFFIXES, fingerprint, open_label, read_image, read_size
from segdistill.dataset.ids import IGNORE_INDEX, bit_color, encode, grey, id_table, ranges
from segdistill.dataset.normalization import IMAGENET, Normalization
from segdistill.dataset.pairs import Pair, describe_unused, read_lines, require_listed, walk

NUM_SIZES = 32  # images that a crop is derived from
logger = logging.getLogger(__name__)


class Sample(NamedTuple):
    """image: uint8 (3, H, W) RGB; label: (H, W), train ids in uint8 with 255 for void, or float values with NaN for
    void; name: the image file's stem; key: int64 (2,), epoch and index of the sample; view: the image as the teacher
    sees it, as ``image``, or empty where it sees the same."""

    image: Tensor
    label: Tensor
    name: str
    key: Tensor
    view: Tensor = torch.empty(0, dtype=torch.uint8)

    @property
    def shown(self) -> Tensor:
        """What the teacher sees."""
        return self.view if self.view.numel() else self.image


class Selection(Sequence):
    """Decoded samples of another sequence, reordered; the ``unlabelled`` ones come last and lose their labels."""

    def __init__(self, samples: Sequence[Sample], labelled: Sequence[int], unlabelled: Sequence[int]):
        self.samples, self.indices, self.num_labelled = samples, [*labelled, *unlabelled], len(labelled)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        image, label, name, *_ = self.samples[self.indices[index]]
        if index >= self.num_labelled:
            label = torch.full_like(label, void_value(label))
        return Sample(image, label, name, torch.tensor([0, index]))


class Source(NamedTuple):
    """A public archive: its URL, the folder in it to unpack, the target folder below the data set's, and its SHA-256
    if known."""

    url: str
    inside: str = ""
    into: str = "."
    sha256: str | None = None


class Recipe(NamedTuple):
    """The default training options of a data set; the fields are options of train.py.

    The defaults are SKD's for Cityscapes.
    """

    input_size: tuple[int, int] = (512, 512)
    random_scale: bool = True
    scale_range: tuple[float, float] = (0.7, 2.1)
    random_mirror: bool = True
    batch_size: int = 8
    num_steps: int = 40_000
    optimizer: str = "sgd"
    lr_g: float = 1e-2
    weight_decay: float = 5e-4

    def fitted(self, images: Sequence[Path]) -> "Recipe":
        """With a crop no larger than the median of some of the images, sides in multiples of 16."""
        sizes = []
        for index in evenly_spaced(NUM_SIZES, len(images)):
            try:
                sizes.append(read_size(images[index]))
            except (ValueError, FileNotFoundError):  # named when it is read
                continue
        if not sizes:
            return self
        fitting = [int(side) // 16 * 16 or int(side) for side in np.median(sizes, 0)]
        return self._replace(input_size=tuple(map(min, fitting, self.input_size)))


# (image, label, generator) -> (image, label), or with the teacher's view of the image as a third
Transform = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, ...]]


class SegmentationDataset(torch.utils.data.Dataset):
    """A split of image and label files.

    A data set declares CLASSES, PALETTE, ID_TO_TRAIN_ID (raw label value -> train id; every other value is an error),
    SPLITS, NORMALIZATION (for training from scratch; weights have their own), RECIPE and ``find_pairs``.

    Items are addressed by an index or by (epoch, index). The augmentation of an item is a function of
    (seed, epoch, index) alone, so it does not depend on workers, processes or what was loaded before.

    Args:
        root: folder of the data set.
        split: one of SPLITS.
        transform: augmentation; None leaves the whole image as it is.
        seed: seeds the augmentation.
        data_list: a text file of "image label" lines, relative to ``root`` or absolute, in place of the split's own
            layout; names with spaces are separated by a tab.
        task: one of TASKS, for which labels are read; None: the first.
        labelled: false where labels are not needed: a line of ``data_list`` may name an image alone.
        unlabelled_list: a text file of images, one a line, that follow the labelled ones and are void throughout; a
            label on the line is ignored.

    Raises:
        FileNotFoundError: the folder, the list or a file that it names is missing, or the split is empty.
        ValueError: unknown split or task, or images and labels do not pair up.
    """

    # The tasks that it has labels for, see ``segdistill.utils.tasks``.
    TASKS: ClassVar[tuple[str, ...]] = ("segmentation",)
    # Those whose labels are uint8 ids; the labels of all others are float32 values.
    ID_TASKS: ClassVar[tuple[str, ...]] = ("segmentation",)
    # Of depth labels, what lies outside is void; and how their files store them.
    DEPTH_RANGE: ClassVar[DepthRange] = DepthRange(0.1, 100.0)
    DEPTH_STORAGE: ClassVar[Storage] = Storage()
    CLASSES: ClassVar[tuple[str, ...]]
    PALETTE: ClassVar[tuple[tuple[int, int, int], ...]]
    ID_TO_TRAIN_ID: ClassVar[dict[int, int]]
    # Groups of classes that are scored too, where the data set's own evaluation has them.
    CATEGORIES: ClassVar[dict[str, tuple[str, ...]]] = {}
    SPLITS: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    VALIDATION_SPLIT: ClassVar[str] = "val"
    NORMALIZATION: ClassVar[Normalization] = IMAGENET
    RECIPE: ClassVar[Recipe] = Recipe()
    # What validates: "labels", or "teacher" where there are none: then scores are agreement with its predictions.
    TRUTH: ClassVar[str] = "labels"
    LABEL_HINT: ClassVar[str] = ""
    # In the .tar of palette PNGs that its server takes; empty where servers take a .zip of label PNGs, or none is.
    SUBMISSION_FOLDER: ClassVar[str] = ""
    # Label values that are void although the data set's own palette gives them the colour of a class.
    VOID_COLORS: ClassVar[dict[int, tuple[int, int, int]]] = {}
    # The default folder of a data set that is made on first use.
    DEFAULT_ROOT: ClassVar[str | None] = None
    # The source: archives that ``prepare`` downloads, or a sentence that says what to download by hand.
    SOURCES: ClassVar[tuple[Source, ...]] = ()
    BY_HAND: ClassVar[str] = ""

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: Transform | None = None,
        seed: int = 0,
        data_list: str | Path | None = None,
        unlabelled_list: str | Path | None = None,
        labelled: bool = True,
        task: str | None = None,
    ):
        name = type(self).__name__
        if split not in self.SPLITS:
            raise ValueError(f"{name} has no split {split!r}; known: {', '.join(self.SPLITS)}")
        self.task = task or self.TASKS[0]
        if self.task not in self.TASKS:
            raise ValueError(f"{name} has no labels for the task {task!r}; known: {', '.join(self.TASKS)}")
        if self.task not in self.ID_TASKS:
            self.CLASSES = self.PALETTE = ()
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{name}: no folder {self.root}; --data-dir names it (see docs/datasets.md)")
        self.split, self.transform, self.seed = split, transform, seed
        self.memory: Sequence[Sample] = []
        self.unused: list[Path] = []
        self.pairs = self._read_list(Path(data_list), labelled) if data_list else self.find_pairs()
        if self.unused:
            logger.warning("%s %s: %s", name, split, describe_unused(self.unused))
        if not self.pairs:
            there = sorted(path.name for path in self.root.iterdir() if not path.name.startswith("."))
            hint = ": is it --dataset folder?" if "classes.txt" in there and name != "Folder" else ""
            raise FileNotFoundError(
                f"{name}: no images of split {split!r} under {self.root}, which holds "
                f"{', '.join(there[:6]) or 'nothing'}{hint} (layouts: docs/datasets.md)"
            )
        self.num_labelled = len(self.pairs)
        if unlabelled_list:
            self.pairs += [Pair(pair.image, None) for pair in self._read_list(Path(unlabelled_list), labelled=False)]
            if len(self.pairs) == self.num_labelled:
                raise ValueError(f"{unlabelled_list} names no image")

    def find_pairs(self) -> list[Pair]:
        """The split's files in the data set's own layout, in a fixed order."""
        raise NotImplementedError

    @classmethod
    def recipe_of(cls, root: str | Path | None) -> Recipe:
        """The recipe for the files in ``root``; the default is the class's."""
        return cls.RECIPE

    @classmethod
    def finish(cls, folder: Path) -> None:
        """The last step of ``prepare``, after the archives of SOURCES are unpacked in ``folder``."""

    def list_images(
        self,
        folder: str,
        ending: str | tuple[str, ...] = "",
        other_endings: tuple[str, ...] = (),
        recursive: bool = False,
        suffixes: tuple[str, ...] = SUFFIXES,
    ) -> list[Path]:
        """The image files of a folder under ``root`` whose stems have (one of) the ending, sorted; [] if it is absent.

        Hidden files and those with one of ``other_endings`` (``x_color.png``) are ignored; all other files are added to
        ``unused``, for a warning.
        """
        taken = []
        for path in walk(self.root / folder):
            if path.name.startswith(".") or path.stem.endswith(other_endings or ("\0",)):
                continue
            in_place = recursive or path.parent == self.root / folder
            fits = in_place and path.suffix.lower() in suffixes and path.stem.endswith(ending)
            (taken if fits else self.unused).append(path)
        return taken

    def locate(self, entry: str) -> Path:
        """The file of an entry of a data list: below ``root``, or else an absolute path.

        The entries of the originals' lists begin with / and mean the data set's folder.
        """
        inside = self.root / entry.lstrip("/")
        return inside if inside.is_file() or not Path(entry).is_file() else Path(entry)

    def pair_of(self, entries: list[str]) -> Pair:
        """The image and label file of a line of a data list, which has one or two entries."""
        return Pair(*map(self.locate, entries), *[None] * (2 - len(entries)))

    def train_id_table(self, label_path: Path) -> np.ndarray:
        """int16 (256,), raw label value -> train id or 255; -1 marks values that must not occur."""
        return id_table(self.ID_TO_TRAIN_ID)

    @classmethod
    def encode(cls, train_ids: np.ndarray) -> np.ndarray:
        """Convert train ids (H, W) uint8 to the values of the data set's label files, for its test server.

        The least value that means a class, or void for ids that are none.
        """
        return encode(cls.ID_TO_TRAIN_ID, train_ids)

    @property
    def label_dtype(self) -> torch.dtype:
        return torch.uint8 if self.task in self.ID_TASKS else torch.float32

    def __len__(self) -> int:
        return len(self.pairs)

    def keep_labels(self, number: int) -> None:
        """Keep the labels of ``number`` evenly spaced images; the other images follow without labels.

        Raises:
            ValueError: there are not as many labelled images.
        """
        total = self.num_labelled
        if not 0 < number <= total:
            raise ValueError(f"cannot keep the labels of {number} images: {self.root} has {total} in {self.split}")
        kept = evenly_spaced(number, total)
        others = [i for i in range(len(self)) if i not in set(kept)]
        if self.memory:
            self.memory = Selection(self.memory, kept, others)
        self.pairs = [*(self.pairs[i] for i in kept), *(Pair(self.pairs[i].image, None) for i in others)]
        self.num_labelled = number

    def digest(self) -> str:
        """SHA-256 of names and contents (``fingerprint``) of images and labels in their order, wherever they lie."""
        files = [path for pair in self.pairs for path in pair]
        with ThreadPoolExecutor(8) as pool:  # 20,000 pairs of 100 KB: about 7 s on two cores
            contents = pool.map(fingerprint, files)
            lines = [f"{path and path.name} {content}\n" for path, content in zip(files, contents, strict=True)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        sample = self.memory[index] if self.memory else self.read(index)
        if self.transform:
            generator = generator_of("augmentation", self.seed, epoch, index)
            image, label, *view = self.transform(sample.image, sample.label, generator)
            return Sample(image, label, sample.name, torch.tensor([epoch, index]), *view)
        return sample

    def read(self, index: int) -> Sample:
        """Decode one item, without augmentation."""
        pair = self.pairs[index]
        image = read_image(pair.image)
        if pair.label is None:
            label = torch.empty(image.shape[1:], dtype=self.label_dtype)
            label.fill_(void_value(label))
        else:
            label = self.read_label(index)
        if label.shape != image.shape[1:]:
            sizes = ["{}x{}".format(*shape) for shape in (label.shape, image.shape[1:])]
            raise ValueError(
                f"{pair.label} is {sizes[0]}, its image {pair.image} {sizes[1]} (both as their EXIF orientation turns "
                "them)"
            )
        return Sample(image, label, pair.image.stem, torch.tensor([0, index]))

    def read_label(self, index: int) -> Tensor:
        """Decode the label of a labelled item, (H, W): train ids in uint8, 255 for void; or metres in float32, NaN for
        void."""
        path = self.pairs[index].label
        if self.task not in self.ID_TASKS:
            return depth_of(self.stored_depth(index), self.DEPTH_STORAGE, self.DEPTH_RANGE)
        return torch.from_numpy(self.to_train_ids(open_label(path), path))

    def stored_depth(self, index: int) -> np.ndarray:
        """The values (H, W) of a labelled item's depth file, as they are stored."""
        return read_values(self.pairs[index].label)

    def preload(self) -> None:
        """Decode every item once and keep it; loader processes that are started later share the memory."""
        indices = tqdm(range(len(self)), desc="decoding", unit="image", leave=False, disable=None)
        self.memory = [self.read(index) for index in indices]

    def to_train_ids(self, label: Image.Image, path: Path) -> np.ndarray:
        """Train ids (H, W) uint8 of a label file of mode L, P or RGB. ValueError names file, value and remedy."""
        name = type(self).__name__
        if label.mode == "RGB":
            raise ValueError(
                f"{path}: a label map has one 8-bit channel, {self.describe_colors(label)} {self.LABEL_HINT}"
            )
        raw, table = np.asarray(label), self.train_id_table(path)
        occurring = np.flatnonzero(np.bincount(raw.ravel(), minlength=256))
        wrong = [int(value) for value in occurring if table[value] < 0]
        if wrong:
            known = ranges(np.flatnonzero(table >= 0).tolist())
            raise ValueError(f"{path} holds values {wrong}; {name} knows {known}. {self.LABEL_HINT}")
        if label.mode == "P":
            self._require_palette(label, occurring, table, path)
        return table[raw].astype(np.uint8)

    def suspect(self, counts: np.ndarray) -> list[str]:
        """Errors in the label statistics of a split; ``counts`` int64 (256,), pixels of each train id."""
        return []

    def describe_colors(self, label: Image.Image) -> str:
        """Describe a label that holds colours, and the remedy."""
        colors = {color for _, color in label.getcolors(label.width * label.height)}
        if colors <= {*self.PALETTE, (0, 0, 0)}:
            return (
                "this holds this data set's colours: map each colour to its id, or read the files as a `folder` "
                "whose classes.txt says rgb."
            )
        if all(red == green == blue for red, green, blue in colors):
            return "this holds the same in three: save one of them as 8-bit greyscale PNG."
        return f"this holds colours, {sorted(colors)[0]} the first, of which some are no class's here: is it a label?"

    def _require_palette(self, label: Image.Image, occurring: np.ndarray, table: np.ndarray, path: Path) -> None:
        """Raise ValueError if the file's palette contradicts the meaning of its values."""
        stored = np.reshape(label.getpalette("RGB"), (-1, 3)).tolist()
        shown = {int(value): tuple(stored[value]) for value in occurring if value < len(stored)}
        if any(all(color == scheme(value) for value, color in shown.items()) for scheme in (grey, bit_color)):
            return
        for value, color in shown.items():
            if color == self.VOID_COLORS.get(value):
                continue
            void = table[value] == IGNORE_INDEX
            # Void may have any colour that no class has, and black.
            fits = color not in self.PALETTE or color == (0, 0, 0) if void else color == self.PALETTE[table[value]]
            if not fits:
                meant = self.CLASSES[self.PALETTE.index(color)] if color in self.PALETTE else "no class"
                expected = "void" if void else f"{self.CLASSES[table[value]]} {self.PALETTE[table[value]]}"
                raise ValueError(
                    f"{path} is palette-coded: its value {value} has the colour {color} ({meant} here), but means "
                    f"{expected}. If the values are right, save them as 8-bit greyscale; if the colours are, map "
                    "them to ids, or read the files as a `folder` whose classes.txt says rgb."
                )

    def _read_list(self, path: Path, labelled: bool = True) -> list[Pair]:
        if not path.is_file():
            raise FileNotFoundError(f"no data list {path}")
        pairs = []
        for number, line in read_lines(path):
            whole = "\t" not in line and self.locate(line.strip()).is_file()
            entries = [line] if whole else line.split("\t") if "\t" in line else line.split()
            entries = [entry.strip() for entry in entries]
            pair = self.pair_of(entries) if len(entries) <= 2 else None
            if pair is None or (pair.label is None and labelled and self.split != "test"):
                raise ValueError(
                    f"{path}:{number}: expected 'image label' (or one image a line for test), with a tab between "
                    f"names with spaces, not {line!r}"
                )
            looked = f"; a name that begins with / is looked for in {self.root}, then from the system's root"
            for file in filter(None, pair):
                require_listed(file, f"{path}:{number}", looked if any(e.startswith("/") for e in entries) else "")
            pairs.append(pair)
        return pairs


def void_value(labels: Tensor) -> float:
    """The value of a pixel without a label: 255 for train ids, NaN for float values."""
    return math.nan if labels.is_floating_point() else IGNORE_INDEX


def is_labelled(labels: Tensor) -> Tensor:
    """Mask of labelled pixels, bool of the labels' shape."""
    return labels.isfinite() if labels.is_floating_point() else labels != IGNORE_INDEX


def evenly_spaced(number: int, total: int) -> list[int]:
    """At most ``number`` indices of 0 ... total - 1, evenly spaced from 0."""
    number = min(number, total)
    return [i * total // number for i in range(number)]


def seed_of(stream: str, *counters: int) -> int:
    """A random seed computed from the stream's name and the counters (seed, epoch, index ...).

    Streams of different names are independent.
    """
    seed = np.random.SeedSequence([zlib.crc32(stream.encode()), *counters]).generate_state(1, np.uint64)[0]
    return int(seed >> np.uint64(1))


def generator_of(stream: str, *counters: int) -> torch.Generator:
    """A generator seeded by ``seed_of``."""
    return torch.Generator().manual_seed(seed_of(stream, *counters))
