"""What all data sets share: pairing, decoding, ids to train ids, and the errors that bad files deserve."""

import hashlib
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from segdistill.dataset.normalization import IMAGENET, Normalization

IGNORE_INDEX = 255


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
        data_list: a text file of "image label" lines relative to ``root``, in place of the data set's own layout.
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
    SPLITS: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    NORMALIZATION: ClassVar[Normalization] = IMAGENET
    RECIPE: ClassVar[Recipe] = Recipe()
    LABEL_HINT: ClassVar[str] = ""
    # A data set that is made on first use has a folder of its own.
    DEFAULT_ROOT: ClassVar[str | None] = None

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
        self.memory: list[Sample] = []
        self.pairs = self._read_list(Path(data_list), labelled) if data_list else self.find_pairs()
        if not self.pairs:
            raise FileNotFoundError(f"{name}: no images of split {split!r} under {self.root}")
        self.num_labelled = len(self.pairs)
        if unlabelled_list:
            self.pairs += [Pair(pair.image, None) for pair in self._read_list(Path(unlabelled_list), labelled=False)]
            if len(self.pairs) == self.num_labelled:
                raise ValueError(f"{unlabelled_list} names no image")

    def find_pairs(self) -> list[Pair]:
        """The split's files in the data set's own layout, in a fixed order."""
        raise NotImplementedError

    def locate(self, entry: str) -> Path:
        """The file that an entry of a data list names."""
        return self.root / entry.lstrip("/")

    def train_id_table(self, label_path: Path) -> np.ndarray:
        """uint8 (256,), raw label value -> train id or 255; -1 marks values that must not occur."""
        return id_table(self.ID_TO_TRAIN_ID)

    def __len__(self) -> int:
        return len(self.pairs)

    def digest(self) -> str:
        """SHA-256 of the images' names in their order: what tells one choice of images from another."""
        return hashlib.sha256("\n".join(pair.image.name for pair in self.pairs).encode()).hexdigest()

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
        raw = np.asarray(open_image(pair.label))
        if raw.ndim != 2 or raw.dtype != np.uint8:
            raise ValueError(
                f"{pair.label}: a label map has one 8-bit channel, this is {raw.dtype} {raw.shape}. {self.LABEL_HINT}"
            )
        if raw.shape != size:
            raise ValueError(
                f"{pair.label} is {raw.shape[0]}x{raw.shape[1]}, its image {pair.image} {size[0]}x{size[1]}"
            )
        train_ids = self.train_id_table(pair.label)[raw]
        if train_ids.min() < 0:
            wrong = np.unique(raw[train_ids < 0]).tolist()
            known = ", ".join(str(i) for i in sorted(self.ID_TO_TRAIN_ID))
            raise ValueError(
                f"{pair.label} holds values {wrong}; {type(self).__name__} knows {known}. {self.LABEL_HINT}"
            )
        return torch.from_numpy(train_ids.astype(np.uint8))

    def _read_list(self, path: Path, labelled: bool = True) -> list[Pair]:
        if not path.is_file():
            raise FileNotFoundError(f"no data list {path}")
        pairs = []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) > 2 or (len(fields) == 1 and labelled and self.split != "test"):
                raise ValueError(
                    f"{path}:{number}: expected 'image label' (or one image a line for test), not {line!r}"
                )
            files = [self.locate(field) for field in fields]
            for file in files:
                if not file.is_file():
                    raise FileNotFoundError(f"{path}:{number} names {file}, which does not exist")
            pairs.append(Pair(files[0], files[1] if len(files) == 2 else None))
        return pairs


def require_labels(dataset: SegmentationDataset, num_images: int = 8) -> None:
    """Raise ValueError if evenly spaced images of the split have no labelled pixel: there is nothing to learn from."""
    num_images = min(num_images, dataset.num_labelled)
    for i in range(num_images):
        if (dataset.read(i * dataset.num_labelled // num_images).label != IGNORE_INDEX).any():
            return
    raise ValueError(
        f"{type(dataset).__name__} {dataset.split}: {num_images} images of {dataset.root}, evenly spaced, are void "
        "throughout: are these the labels?"
    )


def id_table(mapping: dict[int, int]) -> np.ndarray:
    """int16 (256,), raw value -> train id; -1 where ``mapping`` has none."""
    table = np.full(256, -1, dtype=np.int16)
    for raw, train_id in mapping.items():
        table[raw] = train_id
    return table


def seed_of(stream: str, *counters: int) -> int:
    """A seed that is a pure function of the stream's name and the counters (seed, epoch, index ...).

    Streams of different names share nothing, whatever their counters.
    """
    seed = np.random.SeedSequence([zlib.crc32(stream.encode()), *counters]).generate_state(1, np.uint64)[0]
    return int(seed >> np.uint64(1))


def generator_of(stream: str, *counters: int) -> torch.Generator:
    """A generator seeded by ``seed_of``."""
    return torch.Generator().manual_seed(seed_of(stream, *counters))


def open_image(path: Path) -> Image.Image:
    """A decoded image, in the file's own mode (palette labels stay ids)."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read ({error}); it is truncated or no image: fetch it again") from error


def read_image(path: Path) -> Tensor:
    """uint8 (3, H, W) RGB."""
    return torch.from_numpy(np.array(open_image(path).convert("RGB"))).permute(2, 0, 1).contiguous()


def pair_up(images: Sequence[Path], labels: Sequence[Path], key: Callable[[Path], str], where: str) -> list[Pair]:
    """Pair images and labels that share a key; raises ValueError naming the first files without a partner."""
    by_key = {key(label): label for label in labels}
    alone = [image for image in images if key(image) not in by_key]
    left = sorted(set(by_key) - {key(image) for image in images})
    if alone or left:
        names = [str(path.name) for path in alone[:3]] + [by_key[name].name for name in left[:3]]
        raise ValueError(f"{where}: {len(alone)} images without label, {len(left)} labels without image: {names}")
    return [Pair(image, by_key[key(image)]) for image in images]
