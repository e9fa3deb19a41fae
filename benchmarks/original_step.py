"""Time and memory of SKD's training step by its authors' code and by ours.

    git clone https://github.com/irfanICMLL/structure_knowledge_distillation DIR
    python benchmarks/original_step.py DIR
    python benchmarks/original_step.py DIR --variants float32 --batch-size 8 --device cuda
    python benchmarks/original_step.py DIR --variants bf16 --profile

PSPNet-ResNet101 teaches PSPNet-ResNet18 with pi, pa and ho on 2x3x512x512. Each variant is a process of its own, so
that its peak memory is its own; they step in turn, and medians are compared. The original's
step is that of its networks/kd_model.py; its in-place ABN cannot be built with today's PyTorch, BatchNorm replaces it.
"""

import argparse
import sys
import types
from functools import partial
from pathlib import Path

import torch
from in_turn import Step, compare
from torch import Tensor, nn

CLASSES = 19


def original(folder: Path, images: Tensor, labels: Tensor) -> Step:
    """A step of the code in ``folder``."""

    class InPlaceABNSync(nn.BatchNorm2d):
        def __init__(self, channels: int, activation: str = "leaky_relu", **options):
            super().__init__(channels, **options)
            self.activation = nn.Identity() if activation == "none" else nn.LeakyReLU(0.01, inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.activation(super().forward(x))

    sys.modules["tensorboardX"] = types.SimpleNamespace(SummaryWriter=None)  # it is imported there, and not used here
    sys.modules["libs"] = types.SimpleNamespace(InPlaceABN=InPlaceABNSync, InPlaceABNSync=InPlaceABNSync)
    sys.path.insert(0, str(folder))
    if images.device.type == "cpu":
        Tensor.cuda = lambda self, *_: self
    from networks.pspnet_combine import BasicBlock, Bottleneck, Res_pspnet
    from networks.sagan_models import Discriminator

    from utils import criterion

    student = Res_pspnet(BasicBlock, [2, 2, 2, 2], CLASSES).to(images.device).train()
    teacher = Res_pspnet(Bottleneck, [3, 4, 23, 3], CLASSES).to(images.device).eval()
    critic = Discriminator(1, CLASSES, len(images), 65, 64).to(images.device).train()
    cross_entropy, pixel_wise = criterion.CriterionDSN(), criterion.CriterionPixelWise()
    pair_wise = criterion.CriterionPairWiseforWholeFeatAfterPool(scale=0.5, feat_ind=-5)
    adversarial, fooling = criterion.CriterionAdv("wgan-gp"), criterion.CriterionAdvForG("wgan-gp")
    penalty = criterion.CriterionAdditionalGP(critic, 10.0)
    optimizers = [
        torch.optim.SGD([p for p in network.parameters() if p.requires_grad], rate, momentum=0.9, weight_decay=5e-4)
        for network, rate in ((student, 1e-2), (critic, 4e-4))
    ]
    labels = labels.long()

    def step() -> None:
        with torch.no_grad():
            told = teacher(images)
        answer = student(images)
        optimizers[0].zero_grad()
        terms = [cross_entropy(answer, labels), 10 * pixel_wise(answer, told), pair_wise(answer, told)]
        cross_entropy(told, labels)  # it is computed there, and not used
        scored = critic(answer[0])
        total = sum(terms) + 0.1 * fooling(scored, scored)
        total.backward()
        [term.item() for term in (*terms, total)]
        optimizers[0].step()
        optimizers[1].zero_grad()
        told, answer = [x.detach() for x in told], [x.detach() for x in answer]
        total = 0.1 * adversarial(critic(answer[0]), critic(told[0])) + 0.1 * penalty(answer, told)
        total.backward()
        total.item()
        optimizers[1].step()

    return step


def ours(precision: str, compiled: bool, memory_format: torch.memory_format, images: Tensor, labels: Tensor) -> Step:
    """A step as train.py makes it."""
    from segdistill.dataset.normalization import CAFFE
    from segdistill.network import build_network
    from segdistill.utils.allocator import keep_freed_memory
    from segdistill.utils.batch import Batch
    from segdistill.utils.learner import Learner, Objective
    from segdistill.utils.losses import Holistic, PairWise, PixelWise, TaskLoss
    from segdistill.utils.teacher import Inference, Teacher

    keep_freed_memory()
    layout = {"device": images.device, "memory_format": memory_format}
    student = build_network("pspnet", CLASSES, backbone="resnet18_v1s").to(**layout)
    network = build_network("pspnet", CLASSES, backbone="resnet101_v1s")
    inference = Inference(**layout, precision=precision, compiled=compiled)
    teacher = Teacher(network, CAFFE, CAFFE, inference)
    losses = {"pi": PixelWise(weight=20), "pa": PairWise(weight=1), "ho": Holistic(CLASSES)}
    objective = Objective(student, TaskLoss(0.4), losses, compiled).to(images.device)
    optimizer = torch.optim.SGD(objective.parameters(), 1e-2, momentum=0.9, weight_decay=5e-4)
    learner = Learner(objective, optimizer, precision=precision)
    images, labels = images.contiguous(memory_format=memory_format), labels.byte()
    batch = Batch(images, labels, torch.zeros(len(images), 2), torch.tensor(float(labels.numel())), 0.0)

    def step() -> None:
        learner.accumulate(batch, teacher(batch, learner.wanted))
        learner.update()

    return step


VARIANTS = {
    "float32": ("float32", False, torch.channels_last),
    "float32, contiguous": ("float32", False, torch.contiguous_format),  # --channels-last false
    "float32 compiled": ("float32", True, torch.channels_last),
    "bf16": ("bf16", False, torch.channels_last),
    "bf16, contiguous": ("bf16", False, torch.contiguous_format),
    "bf16 compiled": ("bf16", True, torch.channels_last),
}


def build(name: str, options: argparse.Namespace) -> Step:
    """The step of a variant."""
    side = (options.batch_size, 3, options.size, options.size)
    images = torch.randn(side, device=options.device)
    labels = torch.randint(0, CLASSES, (side[0], *side[2:]), device=options.device)
    return ours(*VARIANTS[name], images, labels) if name in VARIANTS else original(options.original, images, labels)


def profile(step: Step) -> None:
    """Print which operations a step, after one that warms up, spends its time in."""
    step()
    with torch.profiler.profile() as profiler:
        step()
    operations = profiler.key_averages()
    total = sum(operation.self_cpu_time_total for operation in operations)
    for operation in sorted(operations, key=lambda operation: -operation.self_cpu_time_total)[:15]:
        share = operation.self_cpu_time_total / total
        print(f"{share:6.1%}  {operation.self_cpu_time_total / 1e6:7.3f} s  {operation.count:5}  {operation.key}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("original", type=Path, metavar="DIR", help="a checkout of the authors' code")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--profile", action="store_true", help="where the time of each variant goes, on the CPU")
    options = parser.parse_args()
    if options.profile:
        for name in ("original", *options.variants):
            print(name)
            profile(build(name, options))
        return
    builders = {name: partial(build, name, options) for name in ("original", *options.variants)}
    compare(builders, options.repeats, options.batch_size, options.device)


if __name__ == "__main__":
    main()
