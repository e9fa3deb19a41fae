"""What distillation costs beyond its parts: train.py's step against teacher forward + student forward and backward.

    python benchmarks/distill_step.py

PSPNet-ResNet101 teaches PSPNet-ResNet18 with pi + pa, 2x3x512x512, float32, channels_last. The two are timed in turn in
one run; the figure is the ratio of their medians.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from segdistill.dataset.normalization import CAFFE
from segdistill.network import build_network
from segdistill.utils.losses import PairWise, PixelWise, TaskLoss
from segdistill.utils.options import parse_options
from segdistill.utils.teacher import Teacher
from train import train_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    layout = {"device": device, "memory_format": torch.channels_last}

    torch.manual_seed(0)
    student = build_network("pspnet", 19, backbone="resnet18").to(**layout).train()
    network = build_network("pspnet", 19, backbone="resnet101")
    teacher = Teacher(network, CAFFE, CAFFE, **layout)
    side = (arguments.batch_size, 3, arguments.size, arguments.size)
    images = torch.randn(side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 19, (side[0], *side[2:]), device=device)
    options = parse_options(["--network", "pspnet", "--backbone", "resnet18", "--pi", "--pa", "--T_ckpt_path", "none"])
    optimizer = torch.optim.SGD(student.parameters(), 1e-6)
    task_loss = TaskLoss()
    losses = nn.ModuleList(loss.from_options(options, student, teacher) for loss in (PixelWise, PairWise))

    def parts() -> None:
        teacher(images)
        optimizer.zero_grad()
        task_loss(student(images), labels).backward()

    def step() -> None:
        train_step(options, 1, 1.0, student, teacher, task_loss, losses, optimizer, images, labels)

    times = {"parts": [], "step": []}
    for repeat in range(arguments.repeats + 1):
        for name, function in (("parts", parts), ("step", step)):
            seconds = timed(function, device)
            if repeat:  # the first of each warms up
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"
    print(f"torch {torch.__version__}, {machine}, {torch.get_num_threads()} threads, {arguments.repeats} repeats")
    for name, values in times.items():
        print(f"{name:5}  median {medians[name]:7.3f} s  min {min(values):7.3f}  max {max(values):7.3f}")
    print(f"ratio  {medians['step'] / medians['parts']:.3f}")


def timed(function: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
