"""Checks of a data set before training: read every file, count every pixel, name every problem with its remedy."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from segdistill.dataset.base import SegmentationDataset, evenly_spaced, is_labelled
from segdistill.dataset.check_depth import DepthTally
from segdistill.dataset.contents import Contents
from segdistill.dataset.duplicates import duplicates
from segdistill.dataset.ids import IGNORE_INDEX
from segdistill.dataset.pairs import describe_unused
from segdistill.libs.files import replacing

FOLDER = ".segdistill"  # in the data set's folder, so that it moves with the data
VERSION = 2  # increase it when the checks change
IMPROBABLE_VOID = 0.5  # of the pixels: more is probably a mistake
MOST_LABELS = 100  # read before training in search of classes
logger = logging.getLogger(__name__)


@dataclass
class Verdict:
    """Result of the check of a split.

    num_pixels: of each class, or of all that have a value, void last. mean, std: of each channel over all pixels of the
    split, RGB, 0..255.
    errors name file, value and remedy; warnings are possible mistakes.
    """

    num_images: int
    num_pixels: list[int]
    mean: list[float]
    std: list[float]
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check(dataset: SegmentationDataset) -> Verdict:
    """Read every file of the split and store the result next to the data; the same contents are not read twice.

    It names images that occur twice in the split; ``shared_images`` compares two splits.
    """
    contents = Contents(dataset.root / FOLDER / "contents.json")
    path = verdict_path(dataset, contents)
    if verdict := read_verdict(path):
        return verdict
    verdict = audit(dataset)
    verdict.warnings += duplicates(dataset, contents)
    try:
        path.parent.mkdir(exist_ok=True)
        contents.save()
        with replacing(path, "w") as file:
            json.dump(asdict(verdict), file, indent=1)
    except OSError:
        pass  # read-only data are checked every time
    return verdict


def known_verdict(dataset: SegmentationDataset) -> Verdict | None:
    """Stored result of ``check`` for exactly these files; None if there is none."""
    if not (dataset.root / FOLDER).is_dir():
        return None
    return read_verdict(verdict_path(dataset, Contents(dataset.root / FOLDER / "contents.json")))


def read_verdict(path: Path) -> Verdict | None:
    """Read a stored result; None if there is none or it is damaged: then the data are checked again."""
    try:
        verdict = Verdict(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    fields = asdict(verdict).values()
    return verdict if [type(field) for field in fields] == [int, *[list] * 5] else None


def verdict_path(dataset: SegmentationDataset, contents: Contents) -> Path:
    """File of the stored result, named by a digest of the contents and the expected labels."""
    expected = (VERSION, type(dataset).__name__, dataset.task, dataset.CLASSES, dataset.PALETTE)
    expected = (*expected, sorted(dataset.ID_TO_TRAIN_ID.items()), dataset.DEPTH_RANGE, dataset.DEPTH_STORAGE)
    digest = hashlib.sha256(f"{expected!r} {contents.digest(dataset)} {dataset.unused}".encode()).hexdigest()
    return dataset.root / FOLDER / f"{dataset.split}-{digest[:16]}.json"


def audit(dataset: SegmentationDataset) -> Verdict:
    counts = np.zeros(IGNORE_INDEX + 1, np.int64)
    depth = None if dataset.label_dtype == torch.uint8 else DepthTally(dataset)
    total, squares, num_pixels = np.zeros(3), np.zeros(3), 0
    errors = []
    for index in tqdm(range(len(dataset)), desc=dataset.split, unit="image", leave=False, disable=None):
        try:
            sample = dataset.read(index)
        except (ValueError, FileNotFoundError) as error:
            errors.append(str(error))
            continue
        if dataset.pairs[index].label and depth:
            depth.look(index)
        elif dataset.pairs[index].label:
            counts += np.bincount(sample.label.numpy().ravel(), minlength=len(counts))
        for channel, values in enumerate(sample.image.numpy()):
            levels = np.bincount(values.ravel(), minlength=256)
            total[channel] += levels @ np.arange(256)
            squares[channel] += levels @ np.arange(256) ** 2
        num_pixels += sample.label.numel()
    num_pixels = max(num_pixels, 1)
    mean = total / num_pixels
    std = np.sqrt(squares / num_pixels - mean**2)
    classes = [*counts[: len(dataset.CLASSES)].tolist(), int(counts[IGNORE_INDEX])]
    verdict = Verdict(len(dataset), classes, mean.tolist(), std.tolist(), errors)
    if depth:
        verdict.num_pixels = [depth.known, depth.void]
        verdict.errors += depth.errors()
        verdict.warnings += depth.warnings()
    if counts.sum():
        verdict.errors += dataset.suspect(counts)
        if dataset.split == "train":
            verdict.errors += lone_class(dataset, classes)
        verdict.warnings += improbable(dataset, classes)
    if dataset.unused:
        verdict.warnings.append(describe_unused(dataset.unused))
    return verdict


def improbable(dataset: SegmentationDataset, counts: list[int]) -> list[str]:
    warnings = []
    void = counts[-1] / sum(counts)
    if void > IMPROBABLE_VOID:
        warnings.append(f"{100 * void:.0f} % of the pixels are void: are these the labels? {dataset.LABEL_HINT}")
    absent = absent_classes(dataset, counts)
    if absent and len(dataset) > 1:
        warnings.append(f"{len(absent)} classes have no pixel: {', '.join(absent[:8])}")
    return warnings


def absent_classes(dataset: SegmentationDataset, counts: Sequence[int]) -> list[str]:
    return [name for name, count in zip(dataset.CLASSES, counts, strict=False) if not count]


def lone_class(dataset: SegmentationDataset, counts: Sequence[int]) -> list[str]:
    """An error if only one class occurs; ``counts`` are the pixels of each class, void last."""
    present = [name for name, count in zip(dataset.CLASSES, counts, strict=False) if count]
    if len(present) != 1:
        return []
    void = 100 * counts[-1] / sum(counts)
    return [
        f"{present[0]!r} is the only class that occurs ({void:.0f} % of the pixels are void): two are the least that "
        f"something can be learned from. {dataset.LABEL_HINT}"
    ]


def require_labels(dataset: SegmentationDataset, num_images: int = 8) -> None:
    """Raise ValueError for unusable labels, by an earlier ``check``, or else by reading some labels.

    Classes of which no pixel is found are named in a warning.

    Raises:
        ValueError: the check found errors, or the labels are all void or of one class only.
    """
    verdict = known_verdict(dataset)
    if verdict and verdict.errors:
        raise ValueError(
            f"`python -m segdistill.dataset check` found {len(verdict.errors)} errors in {dataset.root} "
            f"{dataset.split}, the first: {verdict.errors[0]}"
        )
    if verdict:
        counts, looked_at = verdict.num_pixels, dataset.num_labelled
    else:
        counts, looked_at = count_labels(dataset, num_images)
    where = f"{type(dataset).__name__} {dataset.split}: {looked_at} of {dataset.num_labelled} labels of {dataset.root}"
    if not any(counts[:-1]):
        raise ValueError(f"{where} are void throughout: are these the labels?")
    for error in lone_class(dataset, counts):
        raise ValueError(f"{where}: {error}")
    void = counts[-1] / sum(counts)
    if void > IMPROBABLE_VOID and dataset.CLASSES:  # depth of a laser is sparse
        logger.warning("%s are %.0f %% void: are these the labels?", where, 100 * void)
    absent = absent_classes(dataset, counts)
    if absent:
        logger.warning("%s hold no pixel of %d classes: %s", where, len(absent), ", ".join(absent[:8]))


def count_labels(dataset: SegmentationDataset, num_images: int) -> tuple[list[int], int]:
    """Pixels of each class, void last, in evenly spaced labels, and the number of labels read.

    At least ``num_images``, and up to MOST_LABELS until each class was seen; where all those are of one class, all.
    """
    total, num_classes = dataset.num_labelled, len(dataset.CLASSES)
    if dataset.label_dtype != torch.uint8:  # labelled pixels and void
        labels = [dataset.read_label(index) for index in evenly_spaced(num_images, total)]
        known = torch.cat([is_labelled(label).flatten() for label in labels])
        return [int(known.sum()), int((~known).sum())], len(labels)
    counts = np.zeros(IGNORE_INDEX + 1, np.int64)
    order = dict.fromkeys((*evenly_spaced(num_images, total), *evenly_spaced(MOST_LABELS, total), *range(total)))
    looked_at = 0
    for index in order:
        present = np.count_nonzero(counts[:num_classes])
        if looked_at >= (num_images if present == num_classes else total if present == 1 else MOST_LABELS):
            break
        counts += np.bincount(dataset.read_label(index).numpy().ravel(), minlength=len(counts))
        looked_at += 1
    return [*counts[:num_classes].tolist(), int(counts[IGNORE_INDEX])], looked_at
