"""``python -m segdistill.dataset check NAME DIR`` audits a data set, ``... prepare NAME DIR`` fetches one, and
``... convert EXPORT DIR`` makes one of what a labelling tool exported."""

import argparse
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from segdistill.dataset import DATASETS, build_dataset
from segdistill.dataset.check import Verdict, check
from segdistill.dataset.duplicates import shared_images
from segdistill.dataset.importers import IMPORTERS
from segdistill.dataset.importers.convert import BACKGROUND, OVERVIEW, convert, describe

SHOWN = 20  # problems of a split in full


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m segdistill.dataset", description="Audit, fetch or convert a data set."
    )
    actions = parser.add_subparsers(dest="action", required=True)
    audit = actions.add_parser("check", help="read every file, count the pixels of each class, name every problem")
    audit.add_argument("--split", help="of the data set (all that are there)")
    audit.add_argument("--task", help="whose labels are checked (the data set's first)")
    audit.add_argument("--data-list", metavar="FILE", help="check what this list names, as --split")
    fetch = actions.add_parser("prepare", help="download what is public, or say what to fetch by hand")
    for action in (audit, fetch):
        action.add_argument("name", choices=sorted(DATASETS))
        action.add_argument("folder", type=Path)
    importing = actions.add_parser("convert", help="write what a labelling tool exported as a `folder`")
    importing.add_argument("source", type=Path, metavar="EXPORT", help="a folder, a zip archive or an annotation file")
    importing.add_argument("folder", type=Path, metavar="DIR", help="the result, new or empty")
    importing.add_argument("--format", choices=sorted(IMPORTERS), help="the tool (recognised by what is there)")
    importing.add_argument(
        "--val-share", type=float, default=0.1, help="of the images, if the export has no validation split (0.1)"
    )
    importing.add_argument("--classes", nargs="+", default=(), metavar="NAME", help="keep these, in this order (all)")
    importing.add_argument(
        "--unlabelled", choices=(BACKGROUND, "void"), default=BACKGROUND, help="what pixels without a label are"
    )
    importing.add_argument("--images", type=Path, metavar="FOLDER", help="where the images are, if not in EXPORT")
    options = parser.parse_args(argv)
    if options.action == "check" and options.data_list and not options.split:
        parser.error("--data-list needs --split: the split that it stands for")
    try:
        if options.action == "check":
            return check_all(options)
        if options.action == "convert":
            print_conversion(options)
            return 0
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
            dataset = build_dataset(options.name, options.folder, split, data_list=options.data_list, task=options.task)
            verdict = check(dataset)
            images[split] = [pair.image for pair in dataset.pairs]
        except (ValueError, FileNotFoundError) as error:
            # Training needs two splits; others may be absent.
            if isinstance(error, ValueError) or split in ("train", data_set.VALIDATION_SPLIT, options.split):
                print(f"{split}: {error}", file=sys.stderr)
                failed = True
            else:
                print(f"{split}: training needs none ({error})")
            continue
        failed |= bool(verdict.errors)
        print_verdict(split, verdict, dataset.CLASSES)
    for one, other in combinations(images, 2):
        shared = shared_images(images[one], images[other])
        if shared:
            example = "{} and {}".format(*shared[0])
            print(f"warning: {len(shared)} images of {one} are in {other} too, the first: {example}", file=sys.stderr)
    return int(failed)


def print_conversion(options: argparse.Namespace) -> None:
    settings = {name: getattr(options, name) for name in ("format", "val_share", "classes", "unlabelled", "images")}
    conversion = convert(options.source, options.folder, **settings)
    print("\n".join(describe(conversion, SHOWN)))
    print(
        f"{options.folder / OVERVIEW} shows some. Train: python train.py --dataset folder --data-dir {options.folder}"
    )


def print_verdict(split: str, verdict: Verdict, classes: Sequence[str]) -> None:
    print(f"{split}: {verdict.num_images} images, {len(verdict.errors)} errors, {len(verdict.warnings)} warnings")
    print("  mean {:.2f} {:.2f} {:.2f}, std {:.2f} {:.2f} {:.2f} (RGB)".format(*verdict.mean, *verdict.std))
    total = max(sum(verdict.num_pixels), 1)
    for name, count in zip((*(classes or ("with a value",)), "void"), verdict.num_pixels, strict=True):
        print(f"  {name:20} {count:15,} pixels {100 * count / total:6.2f} %")
    for kind in ("errors", "warnings"):
        messages = getattr(verdict, kind)
        for message in messages[:SHOWN]:
            print(f"{split} {kind[:-1]}: {message}", file=sys.stderr)
        if len(messages) > SHOWN:
            print(f"{split}: {len(messages) - SHOWN} more {kind}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
