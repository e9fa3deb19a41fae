"""Scores of a checkpoint on a labelled split, at the size of the labels.

    python eval.py --dataset camvid --data-dir DIR --split test --checkpoint FILE

Several checkpoints may be given, each with an --output of its own: one process evaluates them in turn.

The network, its class count and the input convention are read from the file, ours or a released one. docs/evaluation.md
says how scores are counted and which protocols there are.
"""

import argparse
from pathlib import Path

import torch

from segdistill.dataset import DATASETS, SegmentationDataset, build_dataset
from segdistill.network import LoadReport, load_network
from segdistill.utils.classes import MappedNetwork, match_classes
from segdistill.utils.distributed import rank, start_device
from segdistill.utils.evaluate import evaluate
from segdistill.utils.files import write_json
from segdistill.utils.flags import Parser, add_switch, number, run_command
from segdistill.utils.metrics import ConfusionMatrix
from segdistill.utils.protocol import add_protocol_flags, build_predictor, protocol_of
from segdistill.utils.report import iou_table, write_run_report


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="eval.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--checkpoint", nargs="+", required=True, metavar="FILE", help="our own or released checkpoints"
    )
    parser.add_argument(
        "--network-options", nargs="+", default=[], metavar="key=value", help="in place of the file's: output_stride=8"
    )
    parser.add_argument("--dataset", required=True, choices=sorted(DATASETS))
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data set")
    parser.add_argument("--data-list", metavar="FILE", help="'image label' lines, in place of the split's own layout")
    parser.add_argument("--split", help="of the data set (the one that validates)")
    parser.add_argument("--class-map", metavar="FILE", help="'its class -> class of the data set' lines, or -> none")
    parser.add_argument("--network", metavar="NAME", help="what the file must hold; a FILE.py:CLASS is run")
    add_switch(parser, "--check", "check options and data, and stop before the checkpoint is read")
    add_switch(parser, "--count-void", "count predictions on void pixels as errors, as ESPNet's paper did")
    parser.add_argument("--num-workers", type=number(int, 0), default=1, metavar="N")
    parser.add_argument("--device", help="cuda if there is one, else cpu")
    parser.add_argument(
        "--output", type=Path, nargs="+", default=[], metavar="FILE", help="write the figures there as JSON, one each"
    )
    add_protocol_flags(parser)
    options = parser.parse_args(argv)
    options.protocol = protocol_of(options, parser) | {"count_void": options.count_void}
    if options.output and len(options.output) != len(options.checkpoint):
        parser.error(f"--output names {len(options.output)} files for {len(options.checkpoint)} of --checkpoint")
    data_set = DATASETS[options.dataset]
    options.split = options.split or data_set.VALIDATION_SPLIT
    options.data_dir = options.data_dir or data_set.DEFAULT_ROOT
    if not options.data_dir:
        parser.error(f"--dataset {options.dataset} needs --data-dir")
    if options.split not in data_set.SPLITS:
        parser.error(f"{options.dataset} has no split {options.split!r}; known: {', '.join(data_set.SPLITS)}")
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    device = start_device(options.device)
    dataset = build_dataset(options.dataset, options.data_dir, options.split, data_list=options.data_list)
    if options.check:
        return 0
    outputs = options.output or [None] * len(options.checkpoint)
    for checkpoint, output in zip(options.checkpoint, outputs, strict=True):
        one = argparse.Namespace(**{**vars(options), "checkpoint": checkpoint, "output": output})
        evaluate_checkpoint(one, dataset, device)
    return 0


def evaluate_checkpoint(options: argparse.Namespace, dataset: SegmentationDataset, device: torch.device) -> None:
    """Score one checkpoint; print its figures and write them to ``options.output``, if that is given."""
    trusted = [options.network] if options.network else []
    network, report = load_network(options.checkpoint, options=options.network_options, trusted=trusted)
    if options.network not in (None, report.config["name"]):
        raise ValueError(f"{options.checkpoint} holds a {report.config['name']}, not a {options.network}")
    class_map = match_classes(network, report, options.checkpoint, dataset, options.class_map)
    if options.class_map:  # without one, void stays a class of releases that count it, and to predict it is an error
        network = MappedNetwork(network, class_map)
    network.to(device, memory_format=torch.channels_last)

    predictor = build_predictor(network, options.protocol, report.input_size, options.batch_size)
    confusion = evaluate(
        predictor, dataset, report.normalization, None, options.num_workers, "eval", options.batch_size
    )
    if rank() == 0:
        figures = summarise(options, report, dataset, confusion)
        figures["parameters"] = sum(parameter.numel() for parameter in network.parameters())
        print(f"{options.checkpoint}: {report}")
        print(iou_table({Path(options.checkpoint).stem: figures}))
        if options.output:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            write_json(options.output, figures)
            if (options.output.parent / "options.json").exists():  # the folder of a run: complete its report
                write_run_report(options.output.parent)


def summarise(
    options: argparse.Namespace, report: LoadReport, dataset: SegmentationDataset, confusion: ConfusionMatrix
) -> dict:
    """What was evaluated, how, and the figures, as plain data; a class that never occurs has None."""
    mapping = {"class_map": options.class_map} if options.class_map else {}
    count_void = options.count_void
    iou, accuracy = confusion.iou(count_void), confusion.class_accuracy()
    groups = [[dataset.CLASSES.index(name) for name in names] for names in dataset.CATEGORIES.values()]
    categories = confusion.merged(groups).iou(count_void)
    return {
        "checkpoint": str(options.checkpoint),
        "sha256": report.sha256,
        "network": report.config,
        "input_size": report.input_size,
        "dataset": options.dataset,
        "data_dir": str(options.data_dir),
        "split": options.split,
        "data_list": options.data_list,
        "num_images": len(dataset),
        "images": dataset.digest(),
        "protocol": {**options.protocol, **mapping},
        "mean_iou": confusion.mean_iou(count_void),
        "pixel_accuracy": confusion.pixel_accuracy(count_void),
        "class_accuracy": accuracy.nanmean().item(),
        "frequency_weighted_iou": confusion.frequency_weighted_iou(count_void),
        "mean_category_iou": categories.nanmean().item() if groups else None,
        "classes": list(dataset.CLASSES),
        "iou": none_for_nan(iou),
        "accuracy": none_for_nan(accuracy),
        "absent": [name for name, value in zip(dataset.CLASSES, iou.tolist(), strict=True) if value != value],
        "category_iou": dict(zip(dataset.CATEGORIES, none_for_nan(categories), strict=True)),
    }


def none_for_nan(values: torch.Tensor) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


if __name__ == "__main__":
    run_command(main)
