"""Data sets: ``build_dataset("camvid", root, split="train")``."""

import logging

from segdistill.dataset.ade20k import Ade20k
from segdistill.dataset.base import Sample, SegmentationDataset, evenly_spaced
from segdistill.dataset.camvid import CamVid
from segdistill.dataset.cityscapes import Cityscapes
from segdistill.dataset.coco_stuff import CocoStuff
from segdistill.dataset.files import read_size
from segdistill.dataset.folder import Folder
from segdistill.dataset.ids import IGNORE_INDEX
from segdistill.dataset.images import Images
from segdistill.dataset.kitti_depth import KittiDepth
from segdistill.dataset.normalization import Normalization
from segdistill.dataset.nyuv2 import NYUv2
from segdistill.dataset.scenes import Scenes
from segdistill.dataset.transforms import RandomCrop
from segdistill.dataset.voc2012 import Voc2012

MUCH_PADDING = 1 / 3  # of a batch
NUM_SIZES = 16  # images whose sizes are compared with the crop
logger = logging.getLogger(__name__)

DATASETS: dict[str, type[SegmentationDataset]] = {
    "ade20k": Ade20k,
    "camvid": CamVid,
    "cityscapes": Cityscapes,
    "coco_stuff": CocoStuff,
    "folder": Folder,
    "images": Images,
    "kitti_depth": KittiDepth,
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
    "Images",
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
    dataset = DATASETS[name](root, split, **options)
    if isinstance(dataset.transform, RandomCrop):
        warn_of_padding(dataset, dataset.transform)
    return dataset


def warn_of_padding(dataset: SegmentationDataset, crop: RandomCrop) -> None:
    """Log a warning if the crop is so large for the images that much of a batch is padding."""
    sizes = [read_size(dataset.pairs[index].image) for index in evenly_spaced(NUM_SIZES, len(dataset))]
    share = crop.padding(sizes)
    if share > MUCH_PADDING:
        height, width = sorted(sizes)[len(sizes) // 2]
        logger.warning(
            "about %.0f %% of every batch is padding: crops are %dx%d, images of %s %s about %dx%d. --input-size takes "
            "smaller crops",
            *(100 * share, *crop.size, type(dataset).__name__, dataset.split, height, width),
        )
