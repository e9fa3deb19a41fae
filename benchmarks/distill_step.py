"""Time of a distillation step, against teacher forward + student forward and backward.

    python benchmarks/distill_step.py
    python benchmarks/distill_step.py --compile  # and against a step with train.py's --compile

PSPNet-ResNet101 teaches PSPNet-ResNet18 with pi + pa, 2x3x512x512, float32, channels_last. Timed alternately in
one run; the result is the ratio of their medians.
"""

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from segdistill.dataset.normalization import CAFFE
from segdistill.network import build_network
from segdistill.utils.batch import Batch
from segdistill.utils.learner import Learner, Objective
from segdistill.utils.losses import PairWise, PixelWise, TaskLoss
from segdistill.utils.teacher import Inference, Teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--compile", action="store_true", help="time the compiled step, too")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    layout = {"device": device, "memory_format": torch.channels_last}

    torch.manual_seed(0)
    student = build_network("pspnet", 19, backbone="resnet18_v1s").to(**layout)
    teacher = Teacher(build_network("pspnet", 19, backbone="resnet101_v1s"), CAFFE, CAFFE, Inference(**layout))
    side = (arguments.batch_size, 3, arguments.size, arguments.size)
    images = torch.randn(side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 19, (side[0], *side[2:]), device=device)
    batch = Batch(images, labels, torch.zeros(side[0], 2), torch.tensor(float(labels.numel())), 0.0)
    learner = learner_of(student, device)

    def parts() -> None:
        teacher(batch, {"logits"})
        student.zero_grad()
        learner.objective.task_loss(student(images, {"aux_logits"}), batch).backward()

    def step(learner: Learner) -> None:
        learner.accumulate(batch, teacher(batch, learner.wanted))
        learner.update()

    functions = {"parts": parts, "step": partial(step, learner)}
    if arguments.compile:
        functions["compiled"] = partial(step, learner_of(copy.deepcopy(student), device, compiled=True))
    times = {name: [] for name in functions}
    for repeat in range(arguments.repeats + 1):
        for name, function in functions.items():
            seconds = timed(function, device)
            if repeat:  # the first of each warms up, and compiles
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"
    print(f"torch {torch.__version__}, {machine}, {torch.get_num_threads()} threads, {arguments.repeats} repeats")
    for name, values in times.items():
        print(f"{name:8}  median {medians[name]:7.3f} s  min {min(values):7.3f}  max {max(values):7.3f}")
    print(f"ratio  {medians['step'] / medians['parts']:.3f}")
    if arguments.compile:
        print(f"compiled / step  {medians['compiled'] / medians['step']:.3f}")


def learner_of(student: nn.Module, device: torch.device, compiled: bool = False) -> Learner:
    objective = Objective(student, TaskLoss(0.4), {"pi": PixelWise(), "pa": PairWise()}, compiled).to(device)
    return Learner(objective, torch.optim.SGD(objective.parameters(), 1e-6))


def timed(function: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
