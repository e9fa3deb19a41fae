"""Time and memory of a distillation step by torchdistill, by a plain loop and by ours.

    pip install --no-deps --target PEERS torchdistill && PYTHONPATH=PEERS python benchmarks/peers.py

The networks are those of segmentation_models_pytorch: DeepLabV3+ with ResNet50 teaches DeepLabV3+ with ResNet18 on
4x3x256x256, by cross-entropy with labels and the divergence from the teacher's probabilities, at the size of the images
in the peers' steps and at the networks' stride in ours. Random weights.
"""

import argparse
from functools import partial

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from in_turn import Step, compare
from torch import Tensor, nn

CLASSES = 19
ENCODERS = {"teacher": "resnet50", "student": "resnet18"}


def of_smp(role: str, device: torch.device) -> nn.Module:
    return smp.DeepLabV3Plus(ENCODERS[role], encoder_weights=None, classes=CLASSES).to(device)


def plain(images: Tensor, labels: Tensor) -> Step:
    """A loop as one writes it."""
    student, teacher = of_smp("student", images.device).train(), of_smp("teacher", images.device).eval()
    optimizer = torch.optim.SGD(student.parameters(), 1e-2, momentum=0.9)

    def step() -> None:
        with torch.no_grad():
            told = teacher(images)
        logits = student(images)
        divergence = F.kl_div(logits.log_softmax(1), told.softmax(1), reduction="none").sum(1).mean()
        loss = F.cross_entropy(logits, labels, ignore_index=255) + divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # to print it

    return step


def torchdistill(images: Tensor, labels: Tensor) -> Step:
    """Its DistillationBox with its KDLoss."""
    from torchdistill.core.distillation import DistillationBox

    logits = {"student_module_path": ".", "teacher_module_path": "."}
    logits |= {"student_module_io": "output", "teacher_module_io": "output"}
    loss = {"key": "KDLoss", "kwargs": {**logits, "temperature": 1.0, "alpha": 1.0, "beta": 1.0, "ignore_index": 255}}
    config = {
        "num_epochs": 1,
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 1e-2, "momentum": 0.9}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}},
        },
    }
    networks = of_smp("teacher", images.device).eval(), of_smp("student", images.device).train()
    box = DistillationBox(*networks, {}, config, images.device, None, False, 1)

    def step() -> None:
        loss = box.forward_process(images, labels)
        box.post_forward_process(loss=loss)
        loss.item()

    return step


def ours(precision: str, images: Tensor, labels: Tensor) -> Step:
    """A step as train.py makes it."""
    from segdistill.dataset.normalization import IMAGENET
    from segdistill.network import build_network
    from segdistill.utils.allocator import keep_freed_memory
    from segdistill.utils.batch import Batch
    from segdistill.utils.learner import Learner, Objective
    from segdistill.utils.losses import KnowledgeDistillation, TaskLoss
    from segdistill.utils.teacher import Inference, Teacher

    keep_freed_memory()
    layout = {"device": images.device, "memory_format": torch.channels_last}
    networks = {
        role: build_network("smp:deeplabv3plus", CLASSES, encoder_name=encoder) for role, encoder in ENCODERS.items()
    }
    teacher = Teacher(networks["teacher"], IMAGENET, IMAGENET, Inference(**layout, precision=precision))
    objective = Objective(networks["student"].to(**layout), TaskLoss(0.0), {"kd": KnowledgeDistillation()}).to(
        images.device
    )
    optimizer = torch.optim.SGD(objective.parameters(), 1e-2, momentum=0.9)
    learner = Learner(objective, optimizer, precision=precision)
    images, labels = images.contiguous(memory_format=torch.channels_last), labels.byte()
    batch = Batch(images, labels, torch.zeros(len(images), 2), torch.tensor(float(labels.numel())), 0.0)

    def step() -> None:
        learner.accumulate(batch, teacher(batch, learner.wanted))
        learner.update()

    return step


STEPS = {
    "plain loop": plain,
    "torchdistill": torchdistill,
    "segdistill": partial(ours, "float32"),
    "segdistill bf16": partial(ours, "bf16"),
}


def build(name: str, options: argparse.Namespace) -> Step:
    """The step of a peer."""
    side = (options.batch_size, 3, options.size, options.size)
    images = torch.randn(side, device=options.device)
    return STEPS[name](images, torch.randint(0, CLASSES, (side[0], *side[2:]), device=options.device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    builders = {name: partial(build, name, options) for name in options.steps}
    compare(builders, options.repeats, options.batch_size, options.device)


if __name__ == "__main__":
    main()
