"""What a distillation method costs: a training step with it against one of the student alone, in time and in memory.

    python benchmarks/methods.py
    python benchmarks/methods.py --methods ho rkd --pairs espnet --repeats 15

Two pairs: PSPNet-ResNet101 teaches PSPNet-ResNet18, 4x3x256x256; ESPNet teaches ESPNet-C, 8x3x128x256. float32,
channels_last, random weights and labels. The teacher's maps are computed once: its pass is no part of the step. "time"
is the median ratio of two steps in alternation, "kept" that of the bytes that autograd keeps for the backward pass.
"""

import argparse
import copy
import platform
import statistics
import time
from typing import NamedTuple

import torch

from segdistill.dataset.normalization import CAFFE
from segdistill.network import SegmentationNetwork, SegmentationOutput, build_network
from segdistill.network.settings import settings_of
from segdistill.utils.batch import Batch
from segdistill.utils.learner import Learner, Objective
from segdistill.utils.losses import DISTILLATION_LOSSES, DistillationLoss, TaskLoss, Term, build_losses
from segdistill.utils.teacher import Inference, Teacher

NUM_CLASSES = 19


class Pair(NamedTuple):
    """student, teacher: a network's name and options. shape: of the images, (N, 3, H, W). on: the features of methods
    whose default feature one of the two lacks."""

    student: tuple[str, dict]
    teacher: tuple[str, dict]
    shape: tuple[int, int, int, int]
    on: dict[str, str]


PAIRS = {
    "pspnet": Pair(
        ("pspnet", {"backbone": "resnet18_v1s"}), ("pspnet", {"backbone": "resnet101_v1s"}), (4, 3, 256, 256), {}
    ),
    "espnet": Pair(
        ("espnet_c", {"p": 2, "q": 3}),
        ("espnet", {"p": 2, "q": 8}),
        (8, 3, 128, 256),
        # The teacher's context is its decoder's, of 19 channels at stride 2: the encoders meet in layer3.
        {"context": "layer3", "layer4.pre": "layer3.pre", "aux_logits+context+logits": "layer2+layer3+logits"},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", metavar="METHOD", default=list(DISTILLATION_LOSSES))
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"
    print(f"torch {torch.__version__}, {machine}, {torch.get_num_threads()} threads, {arguments.repeats} repeats")
    for name in arguments.pairs:
        measure(PAIRS[name], arguments.methods, arguments.repeats, device)


def measure(pair: Pair, methods: list[str], repeats: int, device: torch.device) -> None:
    """Print a row for each method."""
    layout = {"device": device, "memory_format": torch.channels_last}
    torch.manual_seed(0)
    student = build_network(pair.student[0], NUM_CLASSES, **pair.student[1]).to(**layout)
    network = build_network(pair.teacher[0], NUM_CLASSES, **pair.teacher[1])
    images = torch.randn(pair.shape).to(**layout)
    labels = torch.randint(NUM_CLASSES, (pair.shape[0], *pair.shape[2:]), dtype=torch.uint8, device=device)
    batch = Batch(images, labels, torch.zeros(len(images), 2), torch.tensor(float(labels.numel())), 0.0)
    taught = Teacher(network, CAFFE, CAFFE, Inference(**layout))(batch, frozenset(network.features))

    alone = learner_of(student, {}, device)
    seconds = statistics.median(step(alone, batch, taught) for _ in range(3))
    print(f"\n{pair.student[0]} taught by {pair.teacher[0]}, {'x'.join(map(str, pair.shape))}; ", end="")
    print(f"alone {seconds:.3f} s, {alone.saved_bytes / 2**20:.0f} MiB kept")
    print(f"{'method':14} {'on':26} {'time':>6} {'kept':>6}")
    for method in methods:
        default = settings_of(DISTILLATION_LOSSES[method])["on"].default
        on = pair.on.get(default, default)
        try:
            losses = build_losses([Term(method, method, {"on": on})], student, network)
        except ValueError as error:
            print(f"{method:14} {on:26} {error}")
            continue
        learner = learner_of(student, losses, device)
        # The first of each warms up.
        ratios = [step(learner, batch, taught) / step(alone, batch, taught) for _ in range(repeats + 1)][1:]
        kept = learner.saved_bytes / alone.saved_bytes
        print(f"{method:14} {on:26} {statistics.median(ratios):6.2f} {kept:6.2f}", flush=True)


def learner_of(student: SegmentationNetwork, losses: dict[str, DistillationLoss], device: torch.device) -> Learner:
    task_loss = TaskLoss(0.4 if "aux_logits" in student.features else 0)
    objective = Objective(copy.deepcopy(student), task_loss, losses).to(device)
    return Learner(objective, torch.optim.SGD(objective.parameters(), 1e-6))


def step(learner: Learner, batch: Batch, taught: SegmentationOutput) -> float:
    """Seconds of a step."""
    start = time.perf_counter()
    learner.accumulate(batch, taught)
    learner.update()
    if batch.images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
