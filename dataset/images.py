"""`images`: pictures or videos without labels; a teacher gives the classes, or the depth."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from segdistill.dataset.base import Recipe, Sample, SegmentationDataset, evenly_spaced
from segdistill.dataset.files import SUFFIXES
from segdistill.dataset.pairs import Pair, walk
from segdistill.dataset.video import VIDEO_SUFFIXES, frame_rate, read_frames

HELD_OUT, MOST_HELD_OUT = 0.1, 200  # the share of the pictures that validates, and the most of them
FRAMES = ".frames"  # the folder below the data set's that keeps one frame a second of each video


class Images(SegmentationDataset):
    """``<root>/**/X.jpg``: pictures in any folders, and one frame a second of each video; no labels, no class file.

    CLASSES and PALETTE, or DEPTH_RANGE, are the teacher's, set when it is known. Evenly spaced pictures, a tenth and at
    most 200, are held out and validate: their labels are the teacher's predictions (``take_labels``), so scores say how
    far a student agrees with it.
    """

    TASKS = ("segmentation", "depth")
    CLASSES = PALETTE = ()
    ID_TO_TRAIN_ID = {value: value for value in range(256)}
    SPLITS = ("train", "val")
    RECIPE = Recipe(scale_range=(0.5, 2.0))
    TRUTH = "teacher"
    BY_HAND = "your own pictures, in any folders"

    def __init__(self, root: str | Path, split: str, **options):
        self.labels: Sequence[Tensor] = ()
        super().__init__(root, split, **options)

    @classmethod
    def recipe_of(cls, root: str | Path | None) -> Recipe:
        """The class's recipe with a crop no larger than the median picture, sides in multiples of 16."""
        return cls.RECIPE.fitted([path for path in walk(Path(root)) if is_picture(path)] if root else [])

    def find_pairs(self) -> list[Pair]:
        files = [path for path in walk(self.root) if not path.name.startswith(".")]
        pictures = [path for path in files if is_picture(path)]
        videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
        self.unused += [path for path in files if path not in {*pictures, *videos}]
        for video in videos:
            pictures += frames_of(video, self.root / FRAMES / video.relative_to(self.root))
        if len(pictures) == 1:
            raise ValueError(f"{self.root} holds one picture; two are the least, one to learn from and one to validate")
        number = min(max(round(HELD_OUT * len(pictures)), 1), MOST_HELD_OUT)
        held_out = {len(pictures) - 1 - index for index in evenly_spaced(number, len(pictures))}
        return [
            Pair(picture, None)
            for index, picture in enumerate(pictures)
            if (index in held_out) == (self.split == "val")
        ]

    def take_labels(self, labels: Sequence[Tensor]) -> None:
        """The teacher's prediction (H, W) for each picture, its label from now on."""
        self.labels = labels

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        sample = super().__getitem__(key)  # not in ``read``: what is kept decoded serves every teacher
        return sample._replace(label=self.labels[sample.key[1]]) if self.labels else sample


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def frames_of(video: Path, folder: Path) -> list[Path]:
    """One frame a second of a video as JPEG files in ``folder``, written there once.

    Raises:
        ValueError: it cannot be decoded.
        OSError: the frames cannot be written.
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        every = max(round(frame_rate(video)), 1)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            part = Path(temporary, "frames")
            part.mkdir()
            for number, frame in enumerate(read_frames(video, every)):
                picture = Image.fromarray(np.ascontiguousarray(frame.permute(1, 2, 0).numpy()))
                picture.save(part / f"{video.stem}_{number:05}.jpg", quality=95)
            if not folder.is_dir():  # another process may have been faster
                shutil.move(part, folder)
    return walk(folder)
