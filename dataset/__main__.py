"""``python -m segdistill.dataset check NAME DIR`` audits a data set, ``... prepare NAME DIR`` fetches one."""

import argparse
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from segdistill.dataset import DATASETS, build_dataset
from segdistill.dataset.check import Verdict, check
from segdistill.dataset.duplicates import shared_images

SHOWN = 20  # problems of a split in full


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m segdistill.dataset", description="Audit or fetch a data set.")
    actions = parser.add_subparsers(dest="action", required=True)
    audit = actions.add_parser("check", help="read every file, count the pixels of each class, name every problem")
    audit.add_argument("--split", help="of the data set (all that are there)")
    audit.add_argument("--data-list", metavar="FILE", help="check what this list names, as --split")
    fetch = actions.add_parser("prepare", help="download what is public, or say what to fetch by hand")
    for action in (audit, fetch):
        action.add_argument("name", choices=sorted(DATASETS))
        action.add_argument("folder", type=Path)
    options = parser.parse_args(argv)
    if options.action == "check" and options.data_list and not options.split:
        parser.error("--data-list needs --split: the split that it stands for")
    try:
        if options.action == "check":
            return check_all(options)
        from segdistill.dataset.prepare import prepare

        print(prepare(DATASETS[options.name], options.folder))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def check_all(options: argparse.Namespace) -> int:
    """Check every split and the images that two splits share; returns 1 if one has an error or there is none."""
    if not options.folder.is_dir():  # a generated data set would be written to a misspelt folder
        print(f"no folder {options.folder}", file=sys.stderr)
        return 1
    data_set = DATASETS[options.name]
    failed, images = False, {}
    for split in [options.split] if options.split else data_set.SPLITS:
        try:
            dataset = build_dataset(options.name, options.folder, split, data_list=options.data_list)
            verdict = check(dataset)
            images[split] = [pair.image for pair in dataset.pairs]
        except (ValueError, FileNotFoundError) as error:
            print(f"{split}: {error}", file=sys.stderr)
            # Training needs two splits; others may be absent.
            failed |= isinstance(error, ValueError) or split in ("train", data_set.VALIDATION_SPLIT, options.split)
            continue
        failed |= bool(verdict.errors)
        print_verdict(split, verdict, dataset.CLASSES)
    for one, other in combinations(images, 2):
        shared = shared_images(images[one], images[other])
        if shared:
            example = "{} and {}".format(*shared[0])
            print(f"warning: {len(shared)} images of {one} are in {other} too, the first: {example}", file=sys.stderr)
    return int(failed)


def print_verdict(split: str, verdict: Verdict, classes: Sequence[str]) -> None:
    print(f"{split}: {verdict.num_images} images, {len(verdict.errors)} errors, {len(verdict.warnings)} warnings")
    print("  mean {:.2f} {:.2f} {:.2f}, std {:.2f} {:.2f} {:.2f} (RGB)".format(*verdict.mean, *verdict.std))
    total = max(sum(verdict.num_pixels), 1)
    for name, count in zip((*classes, "void"), verdict.num_pixels, strict=True):
        print(f"  {name:20} {count:15,} pixels {100 * count / total:6.2f} %")
    for kind in ("errors", "warnings"):
        messages = getattr(verdict, kind)
        for message in messages[:SHOWN]:
            print(f"{split} {kind[:-1]}: {message}", file=sys.stderr)
        if len(messages) > SHOWN:
            print(f"{split}: {len(messages) - SHOWN} more {kind}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
