"""mIoU of a checkpoint on a labelled split.

    python eval.py --dataset camvid --data-dir DIR --split test --checkpoint FILE

The network, its class count and the input convention are read from the file, ours or a released one.
"""

import argparse
import sys
from pathlib import Path

import torch

from segdistill.dataset import DATASETS, SegmentationDataset, build_dataset
from segdistill.network import BACKBONES, NETWORKS
from segdistill.utils.checkpoint import LoadReport, load_network
from segdistill.utils.distributed import rank, start_device
from segdistill.utils.evaluate import evaluate
from segdistill.utils.flags import add_switch
from segdistill.utils.metrics import ConfusionMatrix
from segdistill.utils.report import iou_table, write_run_report
from segdistill.utils.run import write_json


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="eval.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="our own or a released checkpoint")
    parser.add_argument("--dataset", required=True, choices=sorted(DATASETS))
    parser.add_argument("--data-dir", help="folder of the data set; scenes has a default")
    parser.add_argument("--data-list", metavar="FILE", help="'image label' lines, in place of the split's own layout")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    parser.add_argument("--network", choices=sorted(NETWORKS), help="an error if the file holds another one")
    parser.add_argument("--backbone", choices=sorted(BACKBONES), help="an error if the file holds another one")
    add_switch(parser, "--count-void", "count predictions on void pixels as errors, as ESPNet's paper did")
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--device", help="by default cuda if there is one, else cpu")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures there as JSON")
    options = parser.parse_args(argv)
    if options.dataset != "scenes" and not options.data_dir:
        parser.error(f"--dataset {options.dataset} needs --data-dir")
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    device = start_device(options.device)
    network, report = load_network(options.checkpoint)
    check_network(options, report)
    dataset = build_dataset(options.dataset, options.data_dir, options.split, data_list=options.data_list)
    network.to(device, memory_format=torch.channels_last)

    confusion = evaluate(network, dataset, report.normalization, num_workers=options.num_workers, description="eval")
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
    return 0


def check_network(options: argparse.Namespace, report: LoadReport) -> None:
    """Raise ValueError if the file holds another network than the command line says."""
    for flag, found in (("network", report.config["name"]), ("backbone", report.config.get("backbone"))):
        expected = getattr(options, flag)
        if expected and expected != found:
            raise ValueError(f"{options.checkpoint} holds {flag} {found}, not {expected}")


def summarise(
    options: argparse.Namespace, report: LoadReport, dataset: SegmentationDataset, confusion: ConfusionMatrix
) -> dict:
    """The figures as plain data; a class that never occurs has None."""
    accuracy = confusion.class_accuracy()
    return {
        "checkpoint": str(options.checkpoint),
        "sha256": report.sha256,
        "network": report.config,
        "dataset": options.dataset,
        "split": options.split,
        "num_images": len(dataset),
        "count_void": options.count_void,
        "mean_iou": confusion.mean_iou(options.count_void),
        "pixel_accuracy": confusion.pixel_accuracy(options.count_void),
        "class_accuracy": accuracy.nanmean().item(),
        "classes": list(dataset.CLASSES),
        "iou": none_for_nan(confusion.iou(options.count_void)),
        "accuracy": none_for_nan(accuracy),
    }


def none_for_nan(values: torch.Tensor) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


if __name__ == "__main__":
    sys.exit(main())
