"""Predictions as files: label maps, colour maps, overlays, panels, submissions; of a data set, of pictures, of a video.

python test.py --dataset cityscapes --data-dir DIR --checkpoint FILE --output DIR --submission cityscapes.zip
python test.py --dataset camvid --images FOLDER --checkpoint ALONE DISTILLED --output DIR --save panels
python test.py --checkpoint FILE --fps --input-size 512 1024
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from segdistill.dataset import DATASETS, SegmentationDataset, build_dataset
from segdistill.dataset.files import read_image
from segdistill.libs.files import replacing
from segdistill.network import load_network
from segdistill.utils.classes import MappedNetwork, match_classes
from segdistill.utils.distributed import start_device
from segdistill.utils.flags import Parser, add_switch, run_command
from segdistill.utils.latency import DTYPES, measure_latency
from segdistill.utils.protocol import add_protocol_flags, build_predictor, protocol_of
from segdistill.utils.submission import submission
from segdistill.utils.video import VIDEO_SUFFIXES, VideoWriter, frame_rate, read_frames
from segdistill.utils.visualize import colorize, overlay, side_by_side

KINDS = ("labels", "colours", "overlays", "panels")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="test.py", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, nargs="+", type=Path, metavar="FILE", help="ours or released")
    parser.add_argument(
        "--network-options", nargs="+", default=[], metavar="key=value", help="in place of the file's: output_stride=8"
    )
    parser.add_argument(
        "--trust", nargs="+", default=[], metavar="FILE.py:CLASS", help="code that may be run to build a network"
    )
    parser.add_argument("--dataset", choices=sorted(DATASETS), help="gives the classes and the colours")
    parser.add_argument("--class-map", metavar="FILE", help="'its class -> class of the data set' lines, or -> none")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data set")
    parser.add_argument("--data-list", metavar="FILE", help="one image a line, in place of the split's own layout")
    parser.add_argument("--split", default="test", help="of the data set (test)")
    parser.add_argument(
        "--images", type=Path, metavar="PATH", help="any folder, list of files (.txt) or video, in place of a split"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where --save puts its files")
    parser.add_argument("--save", nargs="+", choices=KINDS, help="what to write (labels; panels for a video)")
    parser.add_argument(
        "--submission", type=Path, metavar="FILE", help=".zip of label ids, or .tar as VOC's server wants"
    )
    add_switch(parser, "--fps", "measure the latency of the networks at --input-size and --batch-size, nothing else")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of --fps")
    parser.add_argument("--device", help="by default cuda if there is one, else cpu")
    add_protocol_flags(parser)
    options = parser.parse_args(argv)
    options.protocol = protocol_of(options, parser)
    if options.fps:
        if not options.input_size:
            parser.error("--fps needs --input-size H W")
        return options
    if not options.dataset:
        parser.error("--dataset gives the classes and the colours: name one")
    if not (options.output or options.submission):
        parser.error("nothing to write: give --output FOLDER or --submission FILE")
    if options.images and (options.data_dir or options.data_list):
        parser.error("--images stands in place of --data-dir and --data-list: give one")
    data_set = DATASETS[options.dataset]
    if options.images and not data_set.CLASSES:
        parser.error(f"the classes of --dataset {options.dataset} are in its folder: --data-dir DIR --data-list FILE")
    if not options.images and not (options.data_dir or data_set.DEFAULT_ROOT):
        parser.error(f"--dataset {options.dataset} needs --data-dir, or --images PATH")
    if not options.images and options.split not in data_set.SPLITS:
        parser.error(f"{options.dataset} has no split {options.split!r}; known: {', '.join(data_set.SPLITS)}")
    if options.submission and len(options.checkpoint) > 1:
        parser.error("a submission is of one checkpoint")
    options.video = bool(options.images) and options.images.suffix.lower() in VIDEO_SUFFIXES
    if options.video and ("labels" in (options.save or ()) or options.submission):
        parser.error("a video gives colours, overlays or panels")
    options.save = options.save or (["panels"] if options.video else ["labels"])
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    device = start_device(options.device)
    networks = {}
    for name, file in zip(checkpoint_names(options.checkpoint), options.checkpoint, strict=True):
        network, report = load_network(file, options=options.network_options, trusted=options.trust)
        networks[name] = network.to(device), report

    if options.fps:
        for name, (network, _) in networks.items():
            figures = measure_latency(network, tuple(options.input_size), options.batch_size, options.dtype)
            print(f"{name}: " + ", ".join(f"{key} {round_off(value)}" for key, value in figures.items()))
        return 0

    data = DATASETS[options.dataset]
    if not options.images:
        data = build_dataset(options.dataset, options.data_dir, options.split, data_list=options.data_list)
    predictors = {}
    for name, (network, report) in networks.items():
        class_map = match_classes(network, report, name, data, options.class_map)
        if options.class_map:
            network = MappedNetwork(network, class_map)
        predictor = build_predictor(network, options.protocol, report.input_size, options.batch_size)
        predictors[name] = lambda image, predictor=predictor, normalization=report.normalization: predictor.class_ids(
            normalization(image[None])
        )[0].numpy()
    if options.video:
        return predict_video(options, predictors)

    files = picture_files(options.images) if options.images else [pair.image for pair in data.pairs]
    with ExitStack() as stack:
        archive = stack.enter_context(submission(options.submission, data)) if options.submission else None
        names = output_names(files)
        for name, file in tqdm(names.items(), desc="predicting", unit="image", disable=None):
            image = read_image(file)
            predictions = {column: predict(image) for column, predict in predictors.items()}
            if archive:
                archive.add(file.stem, next(iter(predictions.values())))
            if options.output:
                for place, picture in pictures_of(image, predictions, data, options.save):
                    save_png(picture, options.output / place / f"{name}.png")
    if archive:
        print(f"{len(names)} predictions in {options.submission}")
    if options.output:
        print(f"{len(names)} predictions in {options.output}: {', '.join(options.save)}")
    return 0


def predict_video(options: argparse.Namespace, predictors: Mapping) -> int:
    rate = frame_rate(options.images)
    with ExitStack() as stack:
        writers: dict[str, VideoWriter] = {}
        for image in read_frames(options.images):
            predictions = {column: predict(image) for column, predict in predictors.items()}
            for place, picture in pictures_of(image, predictions, DATASETS[options.dataset], options.save):
                if place not in writers:
                    path = options.output / place / f"{options.images.stem}.mp4"
                    writers[place] = stack.enter_context(VideoWriter(path, rate))
                writers[place].add(picture)
    print(f"{options.output}: {', '.join(writers)}")
    return 0


def pictures_of(
    image: Tensor,
    predictions: Mapping[str, np.ndarray],
    data: SegmentationDataset | type[SegmentationDataset],
    kinds: list[str],
) -> Iterator[tuple[str, np.ndarray]]:
    """Folder and picture of each kind; several checkpoints have a folder each, and share the panel."""
    pixels = image.permute(1, 2, 0).numpy()
    overlays = {column: overlay(pixels, ids, data.PALETTE) for column, ids in predictions.items()}
    for kind in kinds:
        if kind == "panels":
            yield kind, side_by_side({"image": pixels, **overlays})
            continue
        for column, ids in predictions.items():
            place = kind if len(predictions) == 1 else f"{column}/{kind}"
            if kind == "labels":
                yield place, data.encode(ids)
            else:
                yield place, overlays[column] if kind == "overlays" else colorize(ids, data.PALETTE)


def checkpoint_names(files: list[Path]) -> list[str]:
    """Names for columns and folders: those of the files, with their folders' where these are the same."""
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        names = [f"{file.absolute().parent.name}_{file.stem}" for file in files]
    if len(set(names)) < len(names):
        raise ValueError(f"these checkpoints have the same names: {', '.join(map(str, files))}")
    return names


def picture_files(path: Path) -> list[Path]:
    """The pictures of a folder, or those that the lines of a list name, relative to the list."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    elif path.suffix == ".txt":
        files = [path.parent / line.strip() for line in path.read_text().splitlines() if line.strip()]
    elif path.exists():
        raise ValueError(f"{path}: expected a folder, a list (.txt) or a video ({', '.join(VIDEO_SUFFIXES)})")
    else:
        raise FileNotFoundError(f"no {path}")
    if not files:
        raise FileNotFoundError(f"no pictures ({', '.join(IMAGE_SUFFIXES)}) in {path}")
    return files


def output_names(files: list[Path]) -> dict[str, Path]:
    """Each file by a name of its own: its stem or, if any two share that, its whole path below their common folder."""
    stems = [file.stem for file in files]
    if len(set(stems)) == len(stems):
        return dict(zip(stems, files, strict=True))
    files = [file.absolute() for file in files]
    if twice := [str(file) for file, count in Counter(files).items() if count > 1]:
        raise ValueError(f"named more than once: {', '.join(twice[:3])}")
    top = next(folder for folder in files[0].parents if all(folder in file.parents for file in files))
    return {str(file.relative_to(top)): file for file in files}


def round_off(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


def save_png(picture: np.ndarray, path: Path) -> None:
    with replacing(path) as file:
        Image.fromarray(picture).save(file, format="PNG")


if __name__ == "__main__":
    run_command(main)
