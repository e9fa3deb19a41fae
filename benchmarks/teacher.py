"""Time of the teacher's forward pass in cheaper variants, and the difference of its logits from float32.

    python benchmarks/teacher.py --teacher FILE                  # a checkpoint
    python benchmarks/teacher.py                                 # PSPNet-ResNet101, untrained

Logits of the same images, channels_last, the variants in turn in one run; ratios of medians. Differences: the greatest
of a logit, in shares of the greatest logit, and the part of the positions whose class is the same.
"""

import argparse
import statistics

import torch
from distill_step import timed

from segdistill.dataset.normalization import CAFFE
from segdistill.network import build_network, load_network
from segdistill.utils.batch import Batch
from segdistill.utils.teacher import Inference, Teacher

VARIANTS = {
    "float32": {},
    "bf16": {"precision": "bf16"},
    "compiled": {"compiled": True},
    "bf16, compiled": {"precision": "bf16", "compiled": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", metavar="FILE")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)

    def build(options: dict) -> Teacher:
        torch.manual_seed(0)
        if arguments.teacher:
            network, report = load_network(arguments.teacher)
            normalization = report.normalization
        else:
            network, normalization = build_network("pspnet", 19, backbone="resnet101_v1s"), CAFFE
        return Teacher(network, normalization, normalization, Inference(device, torch.channels_last, **options))

    teachers = {name: build(options) for name, options in VARIANTS.items()}
    images = torch.randn(arguments.batch_size, 3, *arguments.size, device=device)
    batch = Batch(images, torch.empty(0), torch.empty(0), torch.tensor(1.0), 0.0)
    outputs, times = {}, {name: [] for name in teachers}

    def ask(name: str) -> None:
        outputs[name] = teachers[name](batch, {"logits"}).logits

    for repeat in range(arguments.repeats + 1):
        for name in teachers:
            spent = timed(lambda name=name: ask(name), device)
            if repeat:  # the first of each warms up, and compiles
                times[name].append(spent)
    exact, first = outputs["float32"], statistics.median(times["float32"])
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"torch {torch.__version__}, {machine}, {arguments.repeats} repeats")
    for name, seconds in times.items():
        logits, median = outputs[name].float(), statistics.median(seconds)
        error = ((logits - exact).abs().max() / exact.abs().max()).item()
        same = (logits.argmax(1) == exact.argmax(1)).float().mean().item()
        print(f"{name:14}  {median:7.3f} s  {median / first:.2f} x  logits within {error:.1e}  same class {same:.2%}")


if __name__ == "__main__":
    main()
