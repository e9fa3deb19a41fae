"""Data sets: ``build_dataset("camvid", root, split="train")``."""

from segdistill.dataset.ade20k import Ade20k
from segdistill.dataset.base import IGNORE_INDEX, Sample, SegmentationDataset
from segdistill.dataset.camvid import CamVid
from segdistill.dataset.cityscapes import Cityscapes
from segdistill.dataset.coco_stuff import CocoStuff
from segdistill.dataset.folder import Folder
from segdistill.dataset.normalization import Normalization
from segdistill.dataset.nyuv2 import NYUv2
from segdistill.dataset.scenes import Scenes
from segdistill.dataset.voc2012 import Voc2012

DATASETS: dict[str, type[SegmentationDataset]] = {
    "ade20k": Ade20k,
    "camvid": CamVid,
    "cityscapes": Cityscapes,
    "coco_stuff": CocoStuff,
    "folder": Folder,
    "nyuv2": NYUv2,
    "scenes": Scenes,
    "voc2012": Voc2012,
}

__all__ = [
    "DATASETS",
    "IGNORE_INDEX",
    "Ade20k",
    "CamVid",
    "Cityscapes",
    "CocoStuff",
    "Folder",
    "NYUv2",
    "Normalization",
    "Sample",
    "SegmentationDataset",
    "Voc2012",
    "build_dataset",
]


def build_dataset(name: str, root: str | None = None, split: str = "train", **options) -> SegmentationDataset:
    """Open a split of a data set.

    Args:
        name: one of ``DATASETS``.
        root: its folder; None for a data set that makes itself (``scenes``).
        split: one of its SPLITS.
        options: see SegmentationDataset.

    Raises:
        ValueError: an unknown name or split, or a data set in which files do not pair up.
        FileNotFoundError: no such folder, or nothing in it.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(sorted(DATASETS))}")
    return DATASETS[name](root, split, **options)
