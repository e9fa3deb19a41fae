"""The audit of a data set: every file read, every pixel counted, every problem named with its remedy."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from segdistill.dataset.base import IGNORE_INDEX, SegmentationDataset, describe_unused, evenly_spaced
from segdistill.dataset.contents import Contents
from segdistill.libs.files import replacing

FOLDER = ".segdistill"  # under the data set's own: the verdict goes where the data go
VERSION = 1  # raise it when another verdict would be given
IMPROBABLE_VOID = 0.5  # of the pixels: more is probably a mistake
logger = logging.getLogger(__name__)


@dataclass
class Verdict:
    """What was found in a split.

    num_pixels: of each class, void last. mean, std: of each channel over all pixels of the split, RGB, 0..255.
    errors name file, value and remedy; warnings are what may be meant.
    """

    num_images: int
    num_pixels: list[int]
    mean: list[float]
    std: list[float]
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check(dataset: SegmentationDataset) -> Verdict:
    """Read every file of the split, and keep the verdict beside the data; the same contents are not read twice."""
    contents = Contents(dataset.root / FOLDER / "contents.json")
    path = verdict_path(dataset, contents)
    if verdict := read_verdict(path):
        return verdict
    verdict = audit(dataset)
    verdict.warnings += twins(dataset, contents)
    try:
        path.parent.mkdir(exist_ok=True)
        contents.save()
        with replacing(path, "w") as file:
            json.dump(asdict(verdict), file, indent=1)
    except OSError:
        pass  # data that may not be written to are audited every time
    return verdict


def known_verdict(dataset: SegmentationDataset) -> Verdict | None:
    """What an earlier ``check`` said of exactly these files; None if there was none."""
    if not (dataset.root / FOLDER).is_dir():
        return None
    return read_verdict(verdict_path(dataset, Contents(dataset.root / FOLDER / "contents.json")))


def read_verdict(path: Path) -> Verdict | None:
    """A kept verdict; None if there is none, or if it is damaged: then the data are audited again."""
    try:
        verdict = Verdict(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    fields = asdict(verdict).values()
    return verdict if [type(field) for field in fields] == [int, *[list] * 5] else None


def verdict_path(dataset: SegmentationDataset, contents: Contents) -> Path:
    """Named after what was read and what was expected there."""
    expected = repr(
        (VERSION, type(dataset).__name__, dataset.CLASSES, dataset.PALETTE, sorted(dataset.ID_TO_TRAIN_ID.items()))
    )
    digest = hashlib.sha256(f"{expected} {contents.digest(dataset)} {dataset.unused}".encode()).hexdigest()
    return dataset.root / FOLDER / f"{dataset.split}-{digest[:16]}.json"


def audit(dataset: SegmentationDataset) -> Verdict:
    counts = np.zeros(IGNORE_INDEX + 1, np.int64)
    total, squares, num_pixels = np.zeros(3), np.zeros(3), 0
    errors = []
    for index in tqdm(range(len(dataset)), desc=dataset.split, unit="image", leave=False, disable=None):
        try:
            sample = dataset.read(index)
        except (ValueError, FileNotFoundError) as error:
            errors.append(str(error))
            continue
        if dataset.pairs[index].label:
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
    if counts.sum():
        verdict.errors += dataset.suspect(counts)
        verdict.warnings += improbable(dataset, classes)
    if dataset.unused:
        verdict.warnings.append(describe_unused(dataset.unused))
    return verdict


def improbable(dataset: SegmentationDataset, counts: list[int]) -> list[str]:
    warnings = []
    void = counts[-1] / sum(counts)
    if void > IMPROBABLE_VOID:
        warnings.append(f"{100 * void:.0f} % of the pixels are void: are these the labels? {dataset.LABEL_HINT}")
    absent = [name for name, count in zip(dataset.CLASSES, counts, strict=False) if not count]
    if absent and len(dataset) > 1:
        warnings.append(f"{len(absent)} classes have no pixel: {', '.join(absent[:8])}")
    return warnings


def twins(dataset: SegmentationDataset, contents: Contents) -> list[str]:
    """Images of the same content, which are counted or learned twice, or validate what was learned."""
    seen, twins = {}, []
    for pair in dataset.pairs:
        other = seen.setdefault(contents.of(pair.image), pair.image)
        if other is not pair.image:
            twins.append(f"{pair.image} has the content of {other}")
    return [f"{len(twins)} images occur twice, the first: {twins[0]}"] if twins else []


def require_labels(dataset: SegmentationDataset, num_images: int = 8) -> None:
    """Rely on an earlier ``check``; without one, look at evenly spaced images: there is little to learn from void.

    Raises:
        ValueError: the check found errors, or those images have no labelled pixel.
    """
    verdict = known_verdict(dataset)
    if verdict and verdict.errors:
        raise ValueError(
            f"`python -m segdistill.dataset check` found {len(verdict.errors)} errors in {dataset.root} "
            f"{dataset.split}, the first: {verdict.errors[0]}"
        )
    if verdict:
        return
    indices = evenly_spaced(num_images, dataset.num_labelled)
    num_images = len(indices)
    void = np.mean([(dataset.read(index).label == IGNORE_INDEX).float().mean().item() for index in indices])
    where = f"{type(dataset).__name__} {dataset.split}: {num_images} images of {dataset.root}, evenly spaced, are"
    if void == 1:
        raise ValueError(f"{where} void throughout: are these the labels?")
    if void > IMPROBABLE_VOID:
        logger.warning("%s %.0f %% void: are these the labels?", where, 100 * void)
