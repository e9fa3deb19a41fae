"""Predictions as files: label maps (Cityscapes label ids for the server), colour maps, overlays.

python test.py --dataset cityscapes --data-dir DIR --split test --checkpoint FILE --output DIR
python test.py --images FOLDER --dataset camvid --checkpoint FILE --output DIR
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from segdistill.dataset import DATASETS, build_dataset
from segdistill.dataset.base import read_image
from segdistill.dataset.cityscapes import Cityscapes, to_raw_ids
from segdistill.utils.checkpoint import load_network
from segdistill.utils.classes import MappedNetwork, match_classes
from segdistill.utils.distributed import start_device
from segdistill.utils.flags import Parser, run_command
from segdistill.utils.predict import class_ids, whole
from segdistill.utils.visualize import colorize, overlay

KINDS = ("labels", "colors", "overlays")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="test.py", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="our own or a released checkpoint")
    parser.add_argument("--dataset", required=True, choices=sorted(DATASETS), help="gives the classes and the colours")
    parser.add_argument("--class-map", metavar="FILE", help="'its class -> class of the data set' lines, or -> none")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data set")
    parser.add_argument("--data-list", metavar="FILE", help="one image a line, in place of the split's own layout")
    parser.add_argument("--split", default="test", help="of the data set (test)")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="any pictures, in place of a data set's split")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--save", nargs="+", choices=KINDS, default=["labels"], help="what to write (default: labels)")
    parser.add_argument("--device", help="by default cuda if there is one, else cpu")
    options = parser.parse_args(argv)
    if options.images and (options.data_dir or options.data_list):
        parser.error("--images stands in place of --data-dir and --data-list: give one")
    data_set = DATASETS[options.dataset]
    if not options.images and not (options.data_dir or data_set.DEFAULT_ROOT):
        parser.error(f"--dataset {options.dataset} needs --data-dir, or --images FOLDER")
    if options.split not in data_set.SPLITS:
        parser.error(f"{options.dataset} has no split {options.split!r}; known: {', '.join(data_set.SPLITS)}")
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    data_class = DATASETS[options.dataset]
    network, report = load_network(options.checkpoint)
    class_map = match_classes(network, report, options.checkpoint, data_class, options.class_map)
    if options.class_map:
        network = MappedNetwork(network, class_map)
    network.to(start_device(options.device), memory_format=torch.channels_last)
    files = image_files(options)
    for kind in options.save:
        (options.output / kind).mkdir(parents=True, exist_ok=True)

    predictor = whole(network)
    for file in tqdm(files, desc="predicting", unit="image", disable=None):
        image = read_image(file)
        prediction = class_ids(predictor(report.normalization(image[None])))[0].numpy()
        pixels = image.permute(1, 2, 0).numpy()
        pictures = {
            # The Cityscapes server expects label ids, not train ids.
            "labels": to_raw_ids(prediction) if issubclass(data_class, Cityscapes) else prediction,
            "colors": colorize(prediction, data_class.PALETTE),
            "overlays": overlay(pixels, prediction, data_class.PALETTE),
        }
        for kind in options.save:
            save_png(pictures[kind], options.output / kind / f"{file.stem}.png")
    print(f"{len(files)} predictions in {options.output}: {', '.join(options.save)}")
    return 0


def image_files(options: argparse.Namespace) -> list[Path]:
    """The files to predict, in a fixed order."""
    if not options.images:
        dataset = build_dataset(options.dataset, options.data_dir, options.split, data_list=options.data_list)
        return [pair.image for pair in dataset.pairs]
    files = sorted(path for path in options.images.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise FileNotFoundError(f"no pictures ({', '.join(IMAGE_SUFFIXES)}) in {options.images}")
    return files


def save_png(picture: np.ndarray, path: Path) -> None:
    """Write by rename, so that an interrupted run leaves no half PNG."""
    temporary = path.with_suffix(".tmp")
    Image.fromarray(picture).save(temporary, format="PNG")
    temporary.replace(path)


if __name__ == "__main__":
    run_command(main)
