"""Audit a data set: ``python -m dataset check camvid DIR`` reads every file and counts the pixels of each class."""

import argparse
import sys

import numpy as np
from tqdm import tqdm

from dataset import DATASETS, IGNORE_INDEX, SegmentationDataset, build_dataset


def check(dataset: SegmentationDataset) -> np.ndarray:
    """Pixels per class, void last. Raises ValueError naming every bad file of the split (the first 20 in full)."""
    counts = np.zeros(len(dataset.CLASSES) + 1, dtype=np.int64)
    problems = []
    for index in tqdm(range(len(dataset)), desc=dataset.split, unit="image", leave=False):
        try:
            label = dataset.read(index).label.numpy()
        except ValueError as error:
            problems.append(str(error))
            continue
        histogram = np.bincount(label.ravel(), minlength=IGNORE_INDEX + 1)
        counts[:-1] += histogram[: len(dataset.CLASSES)]
        counts[-1] += histogram[IGNORE_INDEX]
    if problems:
        raise ValueError(f"{len(problems)} bad files in {dataset.split}:\n" + "\n".join(problems[:20]))
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dataset", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("check",))
    parser.add_argument("name", choices=sorted(DATASETS))
    parser.add_argument("folder")
    options = parser.parse_args()
    failed = False
    for split in DATASETS[options.name].SPLITS:
        try:
            dataset = build_dataset(options.name, options.folder, split)
            counts = check(dataset)
        except (ValueError, FileNotFoundError) as error:
            print(f"{split}: {error}", file=sys.stderr)
            failed = True
            continue
        print(f"{split}: {len(dataset)} images")
        for name, count in zip((*dataset.CLASSES, "void"), counts, strict=True):
            print(f"  {name:15} {count:13,} pixels {100 * count / counts.sum():6.2f} %")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
