"""Writes predictions of a data set, of images or of a video: label maps, colour maps, overlays, panels, submissions.

python test.py --dataset cityscapes --data-dir DIR --checkpoint FILE --output DIR --submission cityscapes.zip
python test.py --dataset camvid --images FOLDER --checkpoint ALONE DISTILLED --output DIR --save panels
python test.py --checkpoint FILE --fps --input-size 512 1024
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from segdistill.dataset import DATASETS, SegmentationDataset, build_dataset
from segdistill.dataset.files import read_image
from segdistill.dataset.images import Images
from segdistill.dataset.video import VIDEO_SUFFIXES, frame_rate, read_frames
from segdistill.libs.files import replacing
from segdistill.network.export.network import ExportedNetwork
from segdistill.utils.checkpoint import LoadedPredictor, add_network_flags, load_predictor, load_required
from segdistill.utils.distributed import start_device
from segdistill.utils.flags import Parser, add_switch, count, number, run_command
from segdistill.utils.latency import DTYPES, measure_exported, measure_latency
from segdistill.utils.pictures import checkpoint_names, output_names, picture_files, png_of
from segdistill.utils.pipeline import ahead, prefetched
from segdistill.utils.protocol import add_protocol_flags, protocol_of
from segdistill.utils.pseudo_labels import write_folder
from segdistill.utils.submission import submission
from segdistill.utils.tasks import TASKS, task_of, task_of_network
from segdistill.utils.video import VideoWriter
from segdistill.utils.visualize import side_by_side

KINDS = ("labels", "colours", "overlays", "panels", "values")
OF_NETWORK = {"--checkpoint", "--network-options", "--network", "--device"}
OF_LATENCY = OF_NETWORK | {"--fps", "--input-size", "--batch-size", "--dtype", "--threads"}


def make_parser() -> Parser:
    parser = Parser(prog="test.py", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, nargs="+", type=Path, metavar="FILE", help="ours or released")
    add_network_flags(parser)
    parser.add_argument("--dataset", choices=sorted(DATASETS), help="whose classes and colours to use (the file's)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data set")
    parser.add_argument("--data-list", metavar="FILE", help="one image a line, in place of the split's own layout")
    parser.add_argument("--split", help="of the data set (test, or the one that validates where there is no test)")
    parser.add_argument(
        "--images", type=Path, metavar="PATH", help="any folder, list of files (.txt) or video, in place of a split"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where --save puts its files")
    parser.add_argument("--save", nargs="+", choices=KINDS, help="what to write (labels; panels for a video)")
    parser.add_argument("--task", choices=sorted(TASKS), help="of --dataset (its first); without it the file's")
    parser.add_argument(
        "--submission", type=Path, metavar="FILE", help=".zip of label ids, or .tar as VOC's server wants"
    )
    parser.add_argument(
        "--min-confidence",
        type=number(float, 0, 1),
        metavar="P",
        help="write --images with --save labels as a data set (folder) that trains, void below this probability",
    )
    parser.add_argument(
        "--keep-share",
        type=number(float, 0, 1),
        metavar="S",
        help="of --min-confidence: of each class at least this share of its pixels, so that rare classes survive",
    )
    add_switch(parser, "--fps", "measure the latency of the networks at --input-size and --batch-size, nothing else")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of --fps")
    parser.add_argument("--threads", type=count, metavar="N", help="of --fps, on the CPU (PyTorch's: one a core)")
    add_protocol_flags(parser)
    return parser


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser()
    argv = sys.argv[1:] if argv is None else argv
    options = parser.parse_args(argv)
    options.protocol = protocol_of(options, parser)
    given = {word.partition("=")[0] for word in argv if word.startswith("--")}
    for where, flags in without_effect(options, given).items():
        if flags:
            parser.error(f"no effect {where}: {', '.join(sorted(flags))}")
    if options.fps:
        if not options.input_size:
            parser.error("--fps needs --input-size H W")
        return options
    if not (options.dataset or options.images):
        parser.error("--dataset and --data-dir, or --images PATH: name what to predict")
    tasks = DATASETS[options.dataset].TASKS if options.dataset else TASKS
    if options.task and options.task not in tasks:
        parser.error(f"{options.dataset} has no --task {options.task}; known: {', '.join(tasks)}")
    if not (options.output or options.submission):
        parser.error("nothing to write: give --output FOLDER or --submission FILE")
    if not options.images:
        data_set = DATASETS[options.dataset]
        options.split = options.split or ("test" if "test" in data_set.SPLITS else data_set.VALIDATION_SPLIT)
        if not (options.data_dir or data_set.DEFAULT_ROOT):
            parser.error(f"--dataset {options.dataset} needs --data-dir, or --images PATH")
        if options.split not in data_set.SPLITS:
            parser.error(f"{options.dataset} has no --split {options.split}; known: {', '.join(data_set.SPLITS)}")
    if options.submission and len(options.checkpoint) > 1:
        parser.error("a submission is of one checkpoint")
    if options.min_confidence is not None and not (
        options.images and options.output and options.save in (None, ["labels"]) and len(options.checkpoint) == 1
    ):
        parser.error("--min-confidence writes labels of one checkpoint: --images PATH --output FOLDER --save labels")
    options.video = bool(options.images) and options.images.suffix.lower() in VIDEO_SUFFIXES
    still = {"labels", "values"} & {*(options.save or ())}
    if options.video and (still or options.submission or options.min_confidence is not None):
        parser.error("a video gives colours, overlays or panels")
    options.save = options.save or (["panels"] if options.video else ["labels"])
    return options


def without_effect(options: argparse.Namespace, given: set[str]) -> dict[str, set[str]]:
    """The given flags that have no effect, by the cause."""
    if options.fps:
        return {"with --fps": given - OF_LATENCY}
    return {
        "without --fps": given & {"--dtype", "--threads"},
        "without --fps or --predict sliding": given & {"--batch-size"} if options.predict == "whole" else set(),
        "with --images": given & {"--data-dir", "--data-list", "--split"} if options.images else set(),
        "without --output": given & {"--save"} if not options.output else set(),
        "without --min-confidence": given & {"--keep-share"} if options.min_confidence is None else set(),
    }


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    device = start_device(options.device)
    files = dict(zip(checkpoint_names(options.checkpoint), options.checkpoint, strict=True))
    if options.fps:
        for name, file in files.items():
            figures = latency_of(file, options, device)
            print(f"{name}: " + ", ".join(f"{key} {round_off(value)}" for key, value in figures.items()))
        return 0

    if options.images:
        data = meaning_of(options)
    else:
        data = build_dataset(
            options.dataset, options.data_dir, options.split, data_list=options.data_list, task=options.task
        )
    predictors = {}
    for name, file in files.items():
        predictors[name] = load_predictor(
            file,
            data,
            options.protocol,
            options.class_map,
            batch_size=options.batch_size,
            network_options=options.network_options,
            networks=options.network,
            device=device,
        )
    if options.video:
        return predict_video(options, predictors, data)

    pictures = picture_files(options.images) if options.images else [pair.image for pair in data.pairs]
    if options.min_confidence is not None:
        if task_of(data).per_class is None:
            raise ValueError(f"--min-confidence has no effect with --task {task_of(data).name}, which has no classes")
        return label_pictures(options, next(iter(predictors.values())), output_names(pictures), data)
    predict_pictures(options, predictors, data, output_names(pictures))
    return 0


def latency_of(file: Path, options: argparse.Namespace, device: torch.device) -> dict:
    if options.threads:
        torch.set_num_threads(options.threads)
    network, _ = load_required(file, options.network, options.network_options)
    size = tuple(options.input_size)
    if not isinstance(network, ExportedNetwork):
        return measure_latency(network.to(device), size, options.batch_size, options.dtype)
    if options.dtype != "float32" or options.device == "cuda":
        raise ValueError(f"{file} is an exported file, which runs on the CPU as it is: no --dtype, no --device cuda")
    return measure_exported(network.runner, size, options.batch_size)


def meaning_of(options: argparse.Namespace) -> type[SegmentationDataset]:
    """A data set with the task, classes and colours of --dataset, else of the first checkpoint."""
    if options.dataset and DATASETS[options.dataset].CLASSES:
        known = DATASETS[options.dataset]
        return type(known.__name__, (known,), {"task": options.task or known.TASKS[0]})
    network, report = load_required(options.checkpoint[0], options.network, options.network_options)
    task = task_of_network(network)
    if options.task and options.task != task.name:
        raise ValueError(f"{options.checkpoint[0]} answers in {task.name}, not in --task {options.task}")
    if task.per_class and not report.classes:
        raise ValueError(f"{options.checkpoint[0]} does not name its classes: --dataset does")
    pictures = type("Pictures", (Images,), {"task": task.name})
    task.adopt(pictures, network, report)
    return pictures


def label_pictures(
    options: argparse.Namespace,
    predictor: LoadedPredictor,
    pictures: Mapping[str, Path],
    data: type[SegmentationDataset],
) -> int:
    """Write the confident predictions as a data set."""
    share = options.keep_share or 0.0
    kept = write_folder(predictor, pictures, data, options.output, options.min_confidence, share)
    for name, part in kept.items():
        print(f"{name:20} {100 * part:6.2f} % of its pixels kept")
    print(f"{len(pictures)} labelled pictures: --dataset folder --data-dir {options.output}")
    return 0


def predict_pictures(
    options: argparse.Namespace,
    predictors: Mapping[str, LoadedPredictor],
    data: SegmentationDataset | type[SegmentationDataset],
    names: Mapping[str, Path],
) -> None:
    """Write the predictions of pictures by their names; threads decode and encode while the networks run."""

    def predicted() -> Iterator[tuple[str, Tensor, dict[str, np.ndarray]]]:
        for name, image in zip(names, ahead(read_image, names.values()), strict=True):
            yield name, image, {column: loaded.predict(image) for column, loaded in predictors.items()}

    def write(one: tuple[str, Tensor, dict[str, np.ndarray]]) -> tuple[str, bytes] | None:
        name, image, predictions = one
        if options.output:
            for place, picture in pictures_of(image, predictions, data, options.save):
                save(picture, options.output / place / f"{name}.{'npy' if place.endswith('values') else 'png'}")
        return archive and (names[name].stem, archive.encode(next(iter(predictions.values()))))

    with ExitStack() as stack:
        archive = stack.enter_context(submission(options.submission, data)) if options.submission else None
        progress = stack.enter_context(tqdm(total=len(names), desc="predicting", unit="image", disable=None))
        for entry in ahead(write, predicted()):
            if archive:
                archive.add(*entry)
            progress.update()
    if archive:
        print(f"{len(names)} predictions in {options.submission}")
    if options.output:
        print(f"{len(names)} predictions in {options.output}: {', '.join(options.save)}")


def predict_video(
    options: argparse.Namespace, predictors: Mapping[str, LoadedPredictor], data: type[SegmentationDataset]
) -> int:
    """Write the predictions of a video; threads decode, draw and encode while the networks run."""
    rate = frame_rate(options.images)
    writers: dict[str, VideoWriter] = {}

    def predicted() -> Iterator[tuple[Tensor, dict[str, np.ndarray]]]:
        for image in prefetched(read_frames(options.images)):
            yield image, {column: loaded.predict(image) for column, loaded in predictors.items()}

    def draw(frame: tuple[Tensor, dict[str, np.ndarray]]) -> list[tuple[str, np.ndarray]]:
        return list(pictures_of(*frame, data, options.save))

    def write(pictures: list[tuple[str, np.ndarray]]) -> None:
        for place, picture in pictures:
            if place not in writers:
                path = options.output / place / f"{options.images.stem}.mp4"
                writers[place] = stack.enter_context(VideoWriter(path, rate))
            writers[place].add(picture)

    with ExitStack() as stack:
        for _ in ahead(write, ahead(draw, predicted()), threads=1):
            pass
    print(f"{options.output}: {', '.join(writers)}")
    return 0


def pictures_of(
    image: Tensor,
    predictions: Mapping[str, np.ndarray],
    data: SegmentationDataset | type[SegmentationDataset],
    kinds: list[str],
) -> Iterator[tuple[str, np.ndarray]]:
    """Folder and picture of each kind, or its values; each checkpoint has its own folder, the panel is shared."""
    pixels = image.permute(1, 2, 0).numpy()
    task = task_of(data)
    overlays = {column: task.overlay(pixels, prediction, data) for column, prediction in predictions.items()}
    for kind in kinds:
        if kind == "panels":
            pictures = overlays
            if scale := task.scale(data):  # colours tell a value only where no image shines through
                pictures = {column: task.picture(prediction, data) for column, prediction in predictions.items()}
            yield kind, side_by_side({"image": pixels, **pictures}, scale)
            continue
        for column, prediction in predictions.items():
            place = kind if len(predictions) == 1 else f"{column}/{kind}"
            if kind == "labels":
                yield place, task.encode(prediction, data)
            elif kind == "values":
                yield place, prediction
            else:
                yield place, overlays[column] if kind == "overlays" else task.picture(prediction, data)


def round_off(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


def save(picture: np.ndarray, path: Path) -> None:
    """Write a PNG, or values as .npy."""
    with replacing(path) as file:
        if path.suffix == ".npy":
            np.save(file, picture)
        else:
            file.write(png_of(picture))


if __name__ == "__main__":
    run_command(main)
