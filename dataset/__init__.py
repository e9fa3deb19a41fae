"""Data sets: ``build_dataset("camvid", root, split="train")``."""

from segdistill.dataset.base import IGNORE_INDEX, Sample, SegmentationDataset
from segdistill.dataset.camvid import CamVid
from segdistill.dataset.cityscapes import Cityscapes
from segdistill.dataset.normalization import Normalization
from segdistill.dataset.scenes import Scenes

DATASETS: dict[str, type[SegmentationDataset]] = {"camvid": CamVid, "cityscapes": Cityscapes, "scenes": Scenes}

__all__ = [
    "DATASETS",
    "IGNORE_INDEX",
    "CamVid",
    "Cityscapes",
    "Normalization",
    "Sample",
    "SegmentationDataset",
    "build_dataset",
]


def build_dataset(name: str, root: str | None = None, split: str = "train", **options) -> SegmentationDataset:
    """Open a split of a data set.

    Args:
        name: one of ``DATASETS``.
        root: its folder; None for a data set that makes itself (``scenes``).
        split: "train", "val" or "test".
        options: see SegmentationDataset.

    Raises:
        ValueError: an unknown name or split, or a data set in which files do not pair up.
        FileNotFoundError: no such folder, or nothing in it.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(sorted(DATASETS))}")
    return DATASETS[name](root, split, **options)
