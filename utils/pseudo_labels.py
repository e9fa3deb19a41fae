"""Labels from a teacher, kept: a `folder` data set of its predictions, void where it is unsure."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from segdistill.dataset import IGNORE_INDEX, SegmentationDataset, evenly_spaced
from segdistill.dataset.files import read_image
from segdistill.dataset.folder import CLASSES_FILE, write_classes
from segdistill.libs.files import link, new_folder
from segdistill.network import resize
from segdistill.utils.checkpoint import LoadedPredictor
from segdistill.utils.pictures import png_of
from segdistill.utils.pipeline import ahead

BINS = 1000  # of the confidence, for quantiles
VALIDATES = 10  # every tenth image


def confident_class_ids(predictor: LoadedPredictor, image: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The class (H, W) uint8 of each pixel of an image (3, H, W) uint8 and its probability (H, W) float32."""
    maps = predictor.predictor.coarse(predictor.report.normalization(image[None]))
    confidence, ids = resize(maps, image.shape[1:])[0].softmax(0).max(0)
    return ids.to(torch.uint8).cpu().numpy(), confidence.cpu().numpy()


def class_thresholds(
    predictor: LoadedPredictor, pictures: Sequence[Path], num_classes: int, min_confidence: float, keep_share: float
) -> np.ndarray:
    """The least confidence of each class: ``min_confidence``, or less where it would keep less than ``keep_share``.

    Rare classes are predicted with less confidence and would vanish otherwise (class-balanced self-training, Zou et
    al., ECCV 2018).
    """
    counts = np.zeros((num_classes, BINS), np.int64)
    images = ahead(read_image, pictures)
    for image in tqdm(images, desc="confidence of classes", unit="image", total=len(pictures), disable=None):
        ids, confidence = confident_class_ids(predictor, image)
        bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        known = ids < num_classes
        np.add.at(counts, (ids[known], bins[known]), 1)
    above = counts[:, ::-1].cumsum(1)[:, ::-1]  # pixels of at least the bin's confidence
    kept = above >= keep_share * above[:, :1]
    lowest = (kept * np.arange(BINS)).max(1) / BINS
    return np.minimum(lowest, min_confidence)


def write_folder(
    predictor: LoadedPredictor,
    pictures: Mapping[str, Path],
    data: type[SegmentationDataset],
    output: Path,
    min_confidence: float,
    keep_share: float = 0.0,
) -> dict[str, float]:
    """Write pictures and their confident predictions as a `folder` data set; every tenth picture validates.

    Args:
        pictures: by their names in the data set.
        output: a folder that does not exist or is empty; complete or absent afterwards.
        min_confidence: pixels whose class is less probable are void.
        keep_share: of each class at least this share of its pixels is kept, the most confident ones.

    Returns:
        The kept share of each predicted class.

    Raises:
        ValueError: a folder that is not empty, fewer than two pictures, or no pixel that is confident.
    """
    if len(pictures) < 2:
        raise ValueError(f"{len(pictures)} picture; two are the least, one to learn from and one to validate")
    num_classes = len(data.CLASSES)
    thresholds = np.full(num_classes, min_confidence)
    if keep_share:
        thresholds = class_thresholds(predictor, list(pictures.values()), num_classes, min_confidence, keep_share)
    thresholds = np.append(thresholds, [2.0] * (256 - num_classes))  # a network's void is never kept
    validating = set(evenly_spaced(max(len(pictures) // VALIDATES, 1), len(pictures)))
    predicted, kept = np.zeros(256, np.int64), np.zeros(256, np.int64)
    with new_folder(output) as root:
        images = ahead(read_image, pictures.values())
        images = tqdm(images, desc="labelling", unit="image", total=len(pictures), disable=None)
        for index, ((name, file), image) in enumerate(zip(pictures.items(), images, strict=True)):
            split = "val" if index in validating else "train"
            ids, confidence = confident_class_ids(predictor, image)
            sure = confidence >= thresholds[ids]
            predicted += np.bincount(ids.ravel(), minlength=256)
            kept += np.bincount(ids[sure], minlength=256)
            label = root / "labels" / split / f"{name}.png"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_bytes(png_of(np.where(sure, ids, IGNORE_INDEX).astype(np.uint8)))
            link(file, root / "images" / split / f"{name}{file.suffix}")
        if not kept.any():
            raise ValueError(f"no pixel of {len(pictures)} pictures is predicted with {min_confidence:g} or more")
        write_classes(dict(zip(data.CLASSES, data.PALETTE, strict=True)), root / CLASSES_FILE)
    return {name: kept[i] / predicted[i] for i, name in enumerate(data.CLASSES) if predicted[i]}
