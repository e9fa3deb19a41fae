"""NYU Depth v2 with 13 classes or depth: 795 training and 654 test images of 640x480, 0 = void."""

import importlib.util
import re
from pathlib import Path

import numpy as np

from segdistill.dataset.base import Recipe, SegmentationDataset, Source
from segdistill.dataset.depth import DEPTH_SUFFIXES, DepthRange, Storage
from segdistill.dataset.ids import IGNORE_INDEX, bit_color
from segdistill.dataset.pairs import Pair, pair_up

IMAGES = "http://www.doc.ic.ac.uk/~ahanda"
LABELS = "https://raw.githubusercontent.com/ankurhanda/nyuv2-meta-data/b92d15c506876dada1ac4086938e30ebc4deb49b"
MAT = "nyu_depth_v2_labeled.mat"


class NYUv2(SegmentationDataset):
    """``<root>/nyu_<split>_rgb/nyu_rgb_NNNN.png`` with ``<root>/nyuv2_<split>_class13/new_nyu_class13_NNNN.png``.

    There is no third split: the test images are used for validation.

    Depth: ``<root>/nyu_<split>_depth/*NNNN.png`` of 16 bits in millimetres, or else the depth of
    ``<root>/nyu_depth_v2_labeled.mat``, in metres, which needs h5py.
    """

    TASKS = ("segmentation", "depth")
    DEPTH_RANGE = DepthRange(0.1, 10.0)
    DEPTH_STORAGE = Storage(0.001)  # of an instance that reads the .mat: metres

    CLASSES = (
        *("bed", "books", "ceiling", "chair", "floor", "furniture", "objects"),
        *("picture", "sofa", "table", "tv", "wall", "window"),
    )
    PALETTE = tuple(bit_color(i) for i in range(1, 14))
    ID_TO_TRAIN_ID = {0: IGNORE_INDEX, **{i + 1: i for i in range(13)}}
    SPLITS = ("train", "test")
    VALIDATION_SPLIT = "test"
    RECIPE = Recipe((480, 640))
    LABEL_HINT = "Labels are those of nyuv2_{train,test}_class13.tgz; the 40- and 894-class labels are others."
    SOURCES = (
        Source(f"{IMAGES}/nyu_train_rgb.tgz", into="nyu_train_rgb"),
        Source(f"{IMAGES}/nyu_test_rgb.tgz", into="nyu_test_rgb"),
        Source(f"{LABELS}/train_labels_13/nyuv2_train_class13.tgz", into="nyuv2_train_class13"),
        Source(f"{LABELS}/test_labels_13/nyuv2_test_class13.tgz", into="nyuv2_test_class13"),
    )

    def find_pairs(self) -> list[Pair]:
        # The archives may contain a folder with the archive's name.
        images = self.list_images(f"nyu_{self.split}_rgb", recursive=True)
        if self.task == "depth" and not (self.root / f"nyu_{self.split}_depth").is_dir():
            self.DEPTH_STORAGE = Storage()
            return [Pair(image, self.root / MAT) for image in images] if has_mat(self.root) else []
        if self.task == "depth":
            depths = self.list_images(f"nyu_{self.split}_depth", recursive=True, suffixes=DEPTH_SUFFIXES)
            return pair_up(images, depths, f"{self.root} {self.split}", number_of)
        labels = self.list_images(f"nyuv2_{self.split}_class13", recursive=True)
        return pair_up(images, labels, f"{self.root} {self.split}", number_of)

    def stored_depth(self, index: int) -> np.ndarray:
        pair = self.pairs[index]
        if pair.label.suffix != ".mat":
            return super().stored_depth(index)
        import h5py

        with h5py.File(pair.label) as file:
            return file["depths"][int(number_of(pair.image)) - 1].T  # Matlab stores columns


def has_mat(root: Path) -> bool:
    """Whether the labelled .mat is there. Raises ValueError if h5py, which reads it, is missing."""
    if not (root / MAT).is_file():
        return False
    if importlib.util.find_spec("h5py") is None:
        raise ValueError(f"{root / MAT} needs h5py, which is not installed: pip install segdistill[nyuv2]")
    return True


def number_of(path: Path) -> str:
    """NNNN, the frame number (of 1449) of an image and its label."""
    found = re.search(r"(\d+)$", path.stem)
    if not found:
        raise ValueError(f"{path}: the name of an image or label ends in its number, as in nyu_rgb_0003.png")
    return f"{int(found[1]):04d}"
