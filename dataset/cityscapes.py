"""Cityscapes: leftImg8bit and gtFine, labelIds -> 19 train ids."""

from pathlib import Path

import numpy as np

from segdistill.dataset.base import SegmentationDataset
from segdistill.dataset.ids import IGNORE_INDEX, id_table
from segdistill.dataset.pairs import Pair, pair_up

# raw id of each train id, in train-id order
RAW_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
IMAGE, LABEL, TRAIN_ID_LABEL = "_leftImg8bit", "_gtFine_labelIds", "_gtFine_labelTrainIds"
OTHER_LABELS = ("_gtFine_color", "_gtFine_instanceIds", "_gtFine_polygons")


class Cityscapes(SegmentationDataset):
    """``<root>/leftImg8bit/<split>/<city>/*_leftImg8bit.png`` with ``<root>/gtFine/.../*_gtFine_labelIds.png``.

    A data list may name ``*_labelTrainIds.png`` files instead, and they are taken where a split has no others; they are
    recognised by their name. The test split's published labels are blank: its samples are all void where no label file
    exists.
    """

    CLASSES = (
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    )
    PALETTE = (
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    )
    CATEGORIES = {
        "flat": ("road", "sidewalk"),
        "construction": ("building", "wall", "fence"),
        "object": ("pole", "traffic light", "traffic sign"),
        "nature": ("vegetation", "terrain"),
        "sky": ("sky",),
        "human": ("person", "rider"),
        "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
    }
    ID_TO_TRAIN_ID = {
        **dict.fromkeys(range(34), IGNORE_INDEX),
        **{raw: train_id for train_id, raw in enumerate(RAW_IDS)},
    }
    VOID_COLORS = {18: (153, 153, 153)}  # polegroup is drawn as pole is
    TRAIN_IDS = {**{i: i for i in range(19)}, 255: IGNORE_INDEX}
    LABEL_HINT = (
        "Labels are *_gtFine_labelIds.png (ids 0..33) or *_gtFine_labelTrainIds.png (0..18 and 255): has one "
        "the name of the other?"
    )
    BY_HAND = (
        "register at https://www.cityscapes-dataset.com, download leftImg8bit_trainvaltest.zip and "
        "gtFine_trainvaltest.zip and unzip both there"
    )

    def find_pairs(self) -> list[Pair]:
        images = self.list_images(f"leftImg8bit/{self.split}", IMAGE, recursive=True)
        labels = self.list_images(f"gtFine/{self.split}", (LABEL, TRAIN_ID_LABEL), OTHER_LABELS, recursive=True)
        labels = [label for label in labels if label.stem.endswith(LABEL)] or labels
        if self.split == "test" and not labels:
            return [Pair(image, None) for image in images]
        return pair_up(images, labels, f"{self.root} {self.split}", frame_of)

    def train_id_table(self, label_path: Path) -> np.ndarray:
        by_train_id = label_path.stem.endswith("labelTrainIds")
        return id_table(self.TRAIN_IDS if by_train_id else self.ID_TO_TRAIN_ID)

    def suspect(self, counts: np.ndarray) -> list[str]:
        # Read as label ids, train ids 0..18 mean seven classes, the last of them pole (17).
        beyond = [i for i, raw in enumerate(RAW_IDS) if raw > 18]
        if self.pairs[0].label.stem.endswith("labelTrainIds") or counts[beyond].any():
            return []
        return [
            f"{self.pairs[0].label} and all others hold no value above 18, as train ids do: if that is what they are, "
            "name them *_labelTrainIds.png"
        ]


def frame_of(path: Path) -> str:
    """The key city/city_sequence_frame of an image and its label; city names may contain underscores."""
    return f"{path.parent.name}/{path.stem.removesuffix(IMAGE).removesuffix(LABEL).removesuffix(TRAIN_ID_LABEL)}"
