"""Scores of a checkpoint on a labelled split, at the size of the labels.

    python eval.py --dataset camvid --data-dir DIR --split test --checkpoint FILE

Several checkpoints may be given, each with its own --output; they are evaluated one after the other.

Network, class count and input convention are read from the file, ours or a released one. Scores and protocols:
docs/evaluation.md.
"""

import argparse
import os
from pathlib import Path

import torch

from segdistill.dataset import DATASETS, Images, SegmentationDataset, build_dataset
from segdistill.dataset.normalization import parse_normalization
from segdistill.network import HIDDEN, LoadReport, network_class
from segdistill.network.export.network import count_parameters
from segdistill.network.settings import parse_settings
from segdistill.utils.checkpoint import add_network_flags, load_predictor
from segdistill.utils.distributed import rank, start_device
from segdistill.utils.evaluate import evaluate
from segdistill.utils.files import write_json
from segdistill.utils.flags import Parser, add_switch, number, run_command
from segdistill.utils.protocol import add_protocol_flags, protocol_of
from segdistill.utils.report import score_table, write_run_report
from segdistill.utils.tasks import TASKS, Scores, build_protocol, task_of
from segdistill.utils.tasks.depth import ALIGNMENTS, CROPS
from segdistill.utils.teacher import Inference, Teacher, load_teacher


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="eval.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--checkpoint", nargs="+", required=True, metavar="FILE", help="our own or released checkpoints"
    )
    add_network_flags(parser)
    parser.add_argument("--dataset", required=True, choices=sorted(DATASETS))
    parser.add_argument("--task", choices=sorted(TASKS), help="that the labels are read for (the data set's first)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data set")
    parser.add_argument("--data-list", metavar="FILE", help="'image label' lines, in place of the split's own layout")
    parser.add_argument("--split", help="of the data set (the one that validates)")
    add_switch(parser, "--check", "check options and data, and stop before the checkpoint is read")
    add_switch(parser, "--count-void", "count predictions on void pixels as errors, as ESPNet's paper did")
    teacher = parser.add_argument_group("teacher", "whose predictions are the labels of --dataset images")
    teacher.add_argument("--T_ckpt_path", metavar="FILE")
    teacher.add_argument("--teacher-network", metavar="NAME", help="as of train.py")
    teacher.add_argument("--teacher-options", nargs="*", default=[], metavar="key=value")
    teacher.add_argument("--teacher-normalization", metavar="NAME", help="as of train.py (the file's)")
    teacher.add_argument(
        "--teacher-scale", type=number(float, above=0, greatest=16), metavar="S", help="as of train.py (the file's)"
    )
    depth = parser.add_argument_group("depth", "how depth is scored")
    depth.add_argument("--align", choices=ALIGNMENTS, help="to the labels: scale, or scale and shift (relative: lstsq)")
    depth.add_argument("--crop", choices=sorted(CROPS), help="that is scored (none)")
    depth.add_argument("--depth-range", type=float, nargs=2, metavar=("MIN", "MAX"), help="metres (the data set's)")
    parser.add_argument(
        "--num-workers", type=number(int, 0), metavar="N", help="loader processes (1; with a GPU one a core, at most 8)"
    )
    parser.add_argument(
        "--output", type=Path, nargs="+", default=[], metavar="FILE", help="write the figures there as JSON, one each"
    )
    add_protocol_flags(parser)
    options = parser.parse_args(argv)
    options.protocol = protocol_of(options, parser) | {"count_void": options.count_void}
    if options.depth_range and not 0 < options.depth_range[0] < options.depth_range[1]:
        parser.error("--depth-range MIN MAX: 0 < MIN < MAX")
    if options.output and len(options.output) != len(options.checkpoint):
        parser.error(f"--output names {len(options.output)} files for {len(options.checkpoint)} of --checkpoint")
    data_set = DATASETS[options.dataset]
    options.split = options.split or data_set.VALIDATION_SPLIT
    options.data_dir = options.data_dir or data_set.DEFAULT_ROOT
    if folders := [output for output in options.output if output.is_dir()]:
        parser.error(f"--output {folders[0]} is a folder; name a file")
    if not options.data_dir:
        parser.error(f"--dataset {options.dataset} needs --data-dir")
    has_teacher = bool(options.T_ckpt_path or options.teacher_network)
    if has_teacher != (data_set.TRUTH == "teacher"):
        needs = "have no effect" if has_teacher else "name whose predictions are the labels: give one"
        parser.error(f"--T_ckpt_path and --teacher-network {needs} with --dataset {options.dataset}")
    if options.teacher_options and not options.teacher_network:
        parser.error("--teacher-options has no effect without --teacher-network")
    for name in ("teacher_normalization", "teacher_scale"):
        if getattr(options, name) and not has_teacher:
            parser.error(f"--{name.replace('_', '-')} has no effect without a teacher")
    if options.teacher_normalization:
        parse_normalization(options.teacher_normalization)
    if options.split not in data_set.SPLITS:
        parser.error(f"{options.dataset} has no split {options.split!r}; known: {', '.join(data_set.SPLITS)}")
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    device = start_device(options.device)
    dataset = build_dataset(
        options.dataset, options.data_dir, options.split, data_list=options.data_list, task=options.task
    )
    task = task_of(dataset)
    if options.count_void and task.per_class is None:
        raise ValueError(f"--count-void has no effect with --task {task.name}, which has no classes")
    if options.check:
        return 0
    if dataset.TRUTH == "teacher":
        label(dataset, options, device)
    if options.num_workers is None:
        # Decoding takes less time than a network on the CPU, and more than one on a GPU.
        options.num_workers = 1 if device.type == "cpu" else min(os.cpu_count(), 8)
    outputs = options.output or [None] * len(options.checkpoint)
    options.images = dataset.digest()  # reads every file
    for checkpoint, output in zip(options.checkpoint, outputs, strict=True):
        one = argparse.Namespace(**{**vars(options), "checkpoint": checkpoint, "output": output})
        evaluate_checkpoint(one, dataset, device)
    return 0


def label(dataset: Images, options: argparse.Namespace, device: torch.device) -> None:
    """Give images the classes of the teacher, and its predictions as labels."""
    name = options.teacher_network
    settings = parse_settings(network_class(name), options.teacher_options, name, HIDDEN) if name else {}
    network, report = load_teacher(name, options.T_ckpt_path, settings=settings)
    task_of(dataset).adopt(dataset, network, report)
    convention = report.normalization or dataset.NORMALIZATION
    source = options.T_ckpt_path or name
    given = options.teacher_normalization
    teacher = Teacher.from_report(
        network,
        report,
        source,
        convention,
        dataset,
        normalization=parse_normalization(given) if given else None,
        inference=Inference(device, scale=options.teacher_scale),
    )
    dataset.take_labels(teacher.predict(dataset))
    shown = {"teacher_normalization": given, "teacher_scale": options.teacher_scale}
    options.protocol |= {"teacher": report.sha256} | {name: value for name, value in shown.items() if value}


def evaluate_checkpoint(options: argparse.Namespace, dataset: SegmentationDataset, device: torch.device) -> None:
    """Score one checkpoint; print its figures and write them to ``options.output``, if that is given."""
    predictor, network, report, _ = load_predictor(
        options.checkpoint,
        dataset,
        options.protocol,
        options.class_map,
        batch_size=options.batch_size,
        network_options=options.network_options,
        networks=options.network,
        device=device,
    )
    own = {name: getattr(options, name) for name in ("align", "crop", "depth_range")}
    # A new one: the checkpoints share what was given.
    options.protocol = options.protocol | build_protocol(task_of(dataset), dataset, network, own)
    scores = evaluate(
        predictor,
        dataset,
        report.normalization,
        None,
        options.num_workers,
        "eval",
        options.batch_size,
        options.protocol,
        device,
    )
    if rank() == 0:
        figures = summarise(options, report, dataset, scores)
        figures["parameters"] = count_parameters(network)
        print(f"{options.checkpoint}: {report}")
        print(score_table({Path(options.checkpoint).stem: figures}), flush=True)
        if options.output:
            write_json(options.output, figures)
            if (options.output.parent / "options.json").exists():  # the folder of a run: complete its report
                write_run_report(options.output.parent)


def summarise(options: argparse.Namespace, report: LoadReport, dataset: SegmentationDataset, scores: Scores) -> dict:
    """The evaluated subject, the protocol and the figures, as plain data."""
    mapping = {"class_map": options.class_map} if options.class_map else {}
    return {
        "checkpoint": str(options.checkpoint),
        "sha256": report.sha256,
        "network": report.config,
        "input_size": report.input_size,
        "task": dataset.task,
        "dataset": options.dataset,
        "data_dir": str(options.data_dir),
        "split": options.split,
        "data_list": options.data_list,
        "num_images": len(dataset),
        "images": options.images,
        "protocol": {**options.protocol, **mapping},
        **task_of(dataset).summary(scores, dataset, options.protocol),
    }


if __name__ == "__main__":
    run_command(main)
