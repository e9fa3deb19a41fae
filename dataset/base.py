"""What all data sets share: pairing, decoding, ids to train ids, and the errors that bad files deserve."""

import hashlib
import logging
import os
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

from segdistill.dataset.files import SUFFIXES, fingerprint, open_label, read_image
from segdistill.dataset.normalization import IMAGENET, Normalization

IGNORE_INDEX = 255
logger = logging.getLogger(__name__)


class Pair(NamedTuple):
    image: Path
    label: Path | None


class Sample(NamedTuple):
    """image: uint8 (3, H, W) RGB; label: uint8 (H, W), train ids and 255 for void; name: the image file's stem;
    key: int64 (2,), the epoch and the index that it was asked for by."""

    image: Tensor
    label: Tensor
    name: str
    key: Tensor


class Source(NamedTuple):
    """A public archive: its address, the folder in it that is wanted, the folder under the data set's that it goes to,
    and its SHA-256 where known."""

    url: str
    inside: str = ""
    into: str = "."
    sha256: str | None = None


class Recipe(NamedTuple):
    """How a data set is trained on unless the command line says otherwise; the fields are options of train.py.

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


# (image, label, generator) -> (image, label)
Transform = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


class SegmentationDataset(torch.utils.data.Dataset):
    """A split of image and label files.

    A data set declares CLASSES, PALETTE, ID_TO_TRAIN_ID (raw label value -> train id; every other value is an error),
    SPLITS, NORMALIZATION (for training from scratch; weights bring their own), RECIPE and ``find_pairs``.

    Items are addressed by an index or by (epoch, index). The augmentation of an item is a function of
    (seed, epoch, index) alone, so it does not depend on workers, processes or what was loaded before.

    Args:
        root: folder of the data set.
        split: one of SPLITS.
        transform: augmentation; None leaves the whole image as it is.
        seed: seeds the augmentation.
        data_list: a text file of "image label" lines relative to ``root``, in place of the split's own layout; names
            that hold blanks are separated by a tab.
        labelled: false where labels are not needed: a line of ``data_list`` may name an image alone.
        unlabelled_list: a text file of images, one a line, that follow the labelled ones and are void throughout; a
            label on the line is passed over.

    Raises:
        FileNotFoundError: the folder, the list or a file that it names is missing, or the split is empty.
        ValueError: unknown split, or images and labels do not pair up.
    """

    CLASSES: ClassVar[tuple[str, ...]]
    PALETTE: ClassVar[tuple[tuple[int, int, int], ...]]
    ID_TO_TRAIN_ID: ClassVar[dict[int, int]]
    # Groups of classes that are scored too, where the data set's own evaluation has them.
    CATEGORIES: ClassVar[dict[str, tuple[str, ...]]] = {}
    SPLITS: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    VALIDATION_SPLIT: ClassVar[str] = "val"
    NORMALIZATION: ClassVar[Normalization] = IMAGENET
    RECIPE: ClassVar[Recipe] = Recipe()
    LABEL_HINT: ClassVar[str] = ""
    # A data set that is made on first use has a folder of its own.
    DEFAULT_ROOT: ClassVar[str | None] = None
    # Where it comes from: archives that ``prepare`` fetches, or a sentence that says what to fetch by hand.
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
    ):
        name = type(self).__name__
        if split not in self.SPLITS:
            raise ValueError(f"{name} has no split {split!r}; known: {', '.join(self.SPLITS)}")
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
            raise FileNotFoundError(f"{name}: no images of split {split!r} under {self.root} (see docs/datasets.md)")
        self.num_labelled = len(self.pairs)
        if unlabelled_list:
            self.pairs += [Pair(pair.image, None) for pair in self._read_list(Path(unlabelled_list), labelled=False)]
            if len(self.pairs) == self.num_labelled:
                raise ValueError(f"{unlabelled_list} names no image")

    def find_pairs(self) -> list[Pair]:
        """The split's files in the data set's own layout, in a fixed order."""
        raise NotImplementedError

    @classmethod
    def finish(cls, folder: Path) -> None:
        """What ``prepare`` does after the archives of SOURCES are unpacked in ``folder``."""

    def list_images(
        self, folder: str, ending: str = "", other_endings: tuple[str, ...] = (), recursive: bool = False
    ) -> list[Path]:
        """The image files of a folder under ``root`` whose stems have the ending, sorted; [] without the folder.

        Hidden files and those with one of ``other_endings`` (``x_color.png``) are passed over; all others that are
        not taken are kept in ``unused``, to be named.
        """
        taken = []
        for path in walk(self.root / folder):
            if path.name.startswith(".") or path.stem.endswith(other_endings or ("\0",)):
                continue
            in_place = recursive or path.parent == self.root / folder
            fits = in_place and path.suffix.lower() in SUFFIXES and path.stem.endswith(ending)
            (taken if fits else self.unused).append(path)
        return taken

    def locate(self, entry: str) -> Path:
        """The file that an entry of a data list names."""
        return self.root / entry.lstrip("/")

    def pair_of(self, entries: list[str]) -> Pair:
        """The files that a line of a data list, one or two entries, names."""
        return Pair(*map(self.locate, entries), *[None] * (2 - len(entries)))

    def train_id_table(self, label_path: Path) -> np.ndarray:
        """int16 (256,), raw label value -> train id or 255; -1 marks values that must not occur."""
        return id_table(self.ID_TO_TRAIN_ID)

    @classmethod
    def encode(cls, train_ids: np.ndarray) -> np.ndarray:
        """Train ids (H, W) uint8 as the values of the data set's label files, what its server expects.

        The least value that means a class, or void for ids that are none.
        """
        return encode(cls.ID_TO_TRAIN_ID, train_ids)

    def __len__(self) -> int:
        return len(self.pairs)

    def keep_labels(self, number: int) -> None:
        """Forget all labels but those of ``number`` images, evenly spaced; the others follow as images without.

        Raises:
            ValueError: there are not as many labelled images.
        """
        total = self.num_labelled
        if not 0 < number <= total:
            raise ValueError(f"cannot keep the labels of {number} images: {self.root} has {total} in {self.split}")
        kept = evenly_spaced(number, total)
        others = [Pair(self.pairs[i].image, None) for i in range(total) if i not in set(kept)]
        self.pairs = [*(self.pairs[i] for i in kept), *others, *self.pairs[total:]]
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
            image, label = self.transform(sample.image, sample.label, generator)
            return Sample(image, label, sample.name, torch.tensor([epoch, index]))
        return sample

    def read(self, index: int) -> Sample:
        """Decode one item, without augmentation."""
        pair = self.pairs[index]
        image = read_image(pair.image)
        label = self._read_label(pair, tuple(image.shape[1:]))
        return Sample(image, label, pair.image.stem, torch.tensor([0, index]))

    def preload(self) -> None:
        """Decode every item once and keep it; loader processes that are started later share the memory."""
        indices = tqdm(range(len(self)), desc="decoding", unit="image", leave=False, disable=None)
        self.memory = [self.read(index) for index in indices]

    def _read_label(self, pair: Pair, size: tuple[int, int]) -> Tensor:
        if pair.label is None:
            return torch.full(size, IGNORE_INDEX, dtype=torch.uint8)
        image = open_label(pair.label)
        if image.size != size[::-1]:
            raise ValueError(
                f"{pair.label} is {image.height}x{image.width}, its image {pair.image} {size[0]}x{size[1]} "
                "(both as their EXIF orientation turns them)"
            )
        return torch.from_numpy(self.to_train_ids(image, pair.label))

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
        """Errors that only all labels of a split together show; ``counts`` int64 (256,), pixels of each train id."""
        return []

    def describe_colors(self, label: Image.Image) -> str:
        """What a label in colours is, and the remedy."""
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
        """Raise ValueError if the file's own colours say that its values mean something else."""
        stored = np.reshape(label.getpalette("RGB"), (-1, 3)).tolist()
        shown = {int(value): tuple(stored[value]) for value in occurring if value < len(stored)}
        if any(all(color == scheme(value) for value, color in shown.items()) for scheme in (grey, bit_color)):
            return
        for value, color in shown.items():
            void = table[value] == IGNORE_INDEX
            # Void may have any colour of its own, and black.
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
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
        pairs = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            whole = "\t" not in line and self.locate(line.strip()).is_file()
            entries = [line] if whole else line.split("\t") if "\t" in line else line.split()
            entries = [entry.strip() for entry in entries]
            pair = self.pair_of(entries) if len(entries) <= 2 else None
            if pair is None or (pair.label is None and labelled and self.split != "test"):
                raise ValueError(
                    f"{path}:{number}: expected 'image label' (or one image a line for test), with a tab between "
                    f"names that hold blanks, not {line!r}"
                )
            for file in filter(None, pair):
                if not file.is_file():
                    raise FileNotFoundError(f"{path}:{number} names {file}, which does not exist or is no file")
            pairs.append(pair)
        return pairs


def evenly_spaced(number: int, total: int) -> list[int]:
    """``number`` of the indices 0 ... total - 1, at equal steps from 0; all of them if there are not as many."""
    number = min(number, total)
    return [i * total // number for i in range(number)]


def id_table(mapping: dict[int, int]) -> np.ndarray:
    """int16 (256,), raw value -> train id; -1 where ``mapping`` has none."""
    table = np.full(256, -1, dtype=np.int16)
    for raw, train_id in mapping.items():
        table[raw] = train_id
    return table


def encode(id_to_train_id: dict[int, int], train_ids: np.ndarray) -> np.ndarray:
    """Train ids (uint8, any shape) as the least raw value of each; those that are none become void's."""
    values = sorted(id_to_train_id.items(), reverse=True)
    table = np.full(256, min((raw for raw, train_id in values if train_id == IGNORE_INDEX), default=IGNORE_INDEX))
    for raw, train_id in values:
        table[train_id] = raw
    return table.astype(np.uint8)[train_ids]


def seed_of(stream: str, *counters: int) -> int:
    """A seed that is a pure function of the stream's name and the counters (seed, epoch, index ...).

    Streams of different names share nothing, whatever their counters.
    """
    seed = np.random.SeedSequence([zlib.crc32(stream.encode()), *counters]).generate_state(1, np.uint64)[0]
    return int(seed >> np.uint64(1))


def generator_of(stream: str, *counters: int) -> torch.Generator:
    """A generator seeded by ``seed_of``."""
    return torch.Generator().manual_seed(seed_of(stream, *counters))


def pair_up(
    images: Sequence[Path], labels: Sequence[Path], where: str, key: Callable[[Path], str] = lambda path: path.stem
) -> list[Pair]:
    """Pair images and labels that share a key.

    Raises:
        ValueError: files without a partner, or several of one key; names the first.
    """
    image_of, label_of = unique(images, key, where), unique(labels, key, where)
    alone = [image_of[name].name for name in sorted(image_of.keys() - label_of.keys())]
    left = [label_of[name].name for name in sorted(label_of.keys() - image_of.keys())]
    if alone or left:
        raise ValueError(
            f"{where}: {len(alone)} images without label, {len(left)} labels without image: {alone[:3] + left[:3]}"
        )
    return [Pair(image, label_of[name]) for name, image in image_of.items()]


def unique(files: Sequence[Path], key: Callable[[Path], str], where: str) -> dict[str, Path]:
    """Key -> file."""
    found = {}
    for file in files:
        other = found.setdefault(key(file), file)
        if other is not file:
            raise ValueError(f"{where}: {other} and {file} are both {key(file)!r}: which one is meant? Move one away")
    return found


def walk(folder: Path) -> list[Path]:
    """Every file below a folder, sorted, [] without the folder; links are followed, hidden folders are not entered.

    Raises:
        ValueError: a folder that may not be listed.
    """

    def complain(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise ValueError(f"{error.filename} cannot be listed ({error.strerror}): chmod u+rx it, or ask its owner")

    files, seen = [], set()
    for parent, folders, names in os.walk(folder, onerror=complain, followlinks=True):
        if os.path.realpath(parent) in seen:  # a link back
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names]
    return sorted(files)


def describe_unused(files: Sequence[Path]) -> str:
    names = ", ".join(str(file) for file in files[:3])
    return f"{len(files)} files are not used ({names}{' ...' if len(files) > 3 else ''}): not where or as expected"


def ranges(values: Sequence[int]) -> str:
    """Sorted integers in words: "0..11, 255"."""
    starts = [value for value in values if value - 1 not in values]
    ends = [value for value in values if value + 1 not in values]
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in zip(starts, ends, strict=True))


def grey(value: int) -> tuple[int, int, int]:
    return value, value, value


def bit_color(value: int) -> tuple[int, int, int]:
    """The colour of an id in Pascal VOC's colour map: bits 3k, 3k + 1 and 3k + 2 are bit 7 - k of red, green, blue."""
    return tuple(sum((value >> 3 * k + channel & 1) << 7 - k for k in range(3)) for channel in range(3))
