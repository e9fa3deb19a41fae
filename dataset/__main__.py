"""``python -m segdistill.dataset check NAME DIR`` audits a data set, ``... scenes DIR`` generates one."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from segdistill.dataset import DATASETS, IGNORE_INDEX, SegmentationDataset, build_dataset
from segdistill.dataset.scenes import generate


def check(dataset: SegmentationDataset) -> np.ndarray:
    """Pixels per class, void last. Raises ValueError naming every bad file of the split (the first 20 in full)."""
    counts = np.zeros(len(dataset.CLASSES) + 1, dtype=np.int64)
    problems = []
    for index in tqdm(range(len(dataset)), desc=dataset.split, unit="image", leave=False, disable=None):
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


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m segdistill.dataset", description="Audit a data set, or generate scenes."
    )
    actions = parser.add_subparsers(dest="action", required=True)
    audit = actions.add_parser("check", help="read every file and count the pixels of each class")
    audit.add_argument("name", choices=sorted(DATASETS))
    audit.add_argument("folder")
    draw = actions.add_parser("scenes", help="generate the scenes data set in a new folder")
    draw.add_argument("folder")
    draw.add_argument("--num-train", type=int, default=400)
    draw.add_argument("--num-val", type=int, default=80)
    draw.add_argument("--num-test", type=int, default=20)
    draw.add_argument("--size", type=int, nargs=2, default=(128, 256), metavar=("HEIGHT", "WIDTH"))
    draw.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.action == "check":
        return report(options.name, options.folder)
    counts = (options.num_train, options.num_val, options.num_test)
    generate(options.folder, *counts, tuple(options.size), options.seed)
    return 0


def report(name: str, folder: str) -> int:
    """Print the audit of every split; 1 if one of them is missing or bad."""
    if not Path(folder).is_dir():  # a data set that makes itself would take a misspelt name for a new one
        print(f"no folder {folder}", file=sys.stderr)
        return 1
    failed = False
    for split in DATASETS[name].SPLITS:
        try:
            dataset = build_dataset(name, folder, split)
            counts = check(dataset)
        except (ValueError, FileNotFoundError) as error:
            print(f"{split}: {error}", file=sys.stderr)
            failed = True
            continue
        print(f"{split}: {len(dataset)} images")
        for class_name, count in zip((*dataset.CLASSES, "void"), counts, strict=True):
            print(f"  {class_name:15} {count:13,} pixels {100 * count / counts.sum():6.2f} %")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
