"""Train a segmentation network, alone or distilled from a frozen teacher.

    python train.py --network pspnet --backbone resnet18 --dataset cityscapes --data-dir DIR \
        --random-scale --random-mirror --T_ckpt_path ckpt/teacher.pth --pi --pa --ho

A run is a function of its options: data order, augmentation, dropout and the critic's draws are counted from
(seed, step), so it can be killed at any instant and continued with --resume to the same weights, bit for bit.
Several processes: torchrun --nproc_per_node N train.py ...
"""

import argparse
import json
import logging
import math
import signal
import sys
import time
from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from segdistill.dataset import Normalization, SegmentationDataset, build_dataset
from segdistill.dataset.base import generator_of
from segdistill.dataset.sampler import TrainSampler
from segdistill.dataset.transforms import RandomCrop
from segdistill.network import build_network
from segdistill.utils.checkpoint import export_weights, load_weights
from segdistill.utils.distributed import mean_over_processes, rank, start_device, world_size
from segdistill.utils.evaluate import evaluate, predict
from segdistill.utils.losses import DISTILLATION_LOSSES, TaskLoss
from segdistill.utils.options import network_arguments, parse_options
from segdistill.utils.report import write_run_report
from segdistill.utils.run import Run, StopSignal, write_json
from segdistill.utils.teacher import Teacher
from segdistill.utils.visualize import colorize

logger = logging.getLogger("train")


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    device = start_device(options.device)
    logging.basicConfig(level=logging.INFO if rank() == 0 else logging.ERROR, format="%(message)s")
    run = Run(options)
    stop = StopSignal()

    train_set, val_set = build_datasets(options)
    torch.manual_seed(options.seed)
    student, normalization = build_student(options, train_set)
    student.to(device, memory_format=options.memory_format)
    teacher = build_teacher(options, normalization, val_set, device, run) if options.terms else None

    task_loss = TaskLoss.from_options(options)
    losses = nn.ModuleList(DISTILLATION_LOSSES[flag].from_options(options, student, teacher) for flag in options.terms)
    losses.to(device)
    optimizer = build_optimizer(options, student)

    start, best = 0, -1.0
    if state := run.restore():
        start, best = state["step"], state["best"]
        student.load_state_dict(state["student"])
        losses.load_state_dict(state["losses"])
        optimizer.load_state_dict(state["optimizer"])
        logger.info("continuing %s at step %d", run.folder, start)
    model = DistributedDataParallel(student) if world_size() > 1 else student
    model.train()

    progress = tqdm(total=options.num_steps, initial=start, unit="step", disable=rank() > 0, dynamic_ncols=True)
    clock, logged = time.perf_counter(), start
    for step, sample in enumerate(build_loader(options, train_set, start, device), start + 1):
        factor = (1 - (step - 1) / options.num_steps) ** options.power
        images = normalization(sample.image.to(device, non_blocking=True))
        images = images.contiguous(memory_format=options.memory_format)
        labels = sample.label.to(device, non_blocking=True)
        terms = train_step(options, step, factor, model, teacher, task_loss, losses, optimizer, images, labels)
        progress.update()

        last = step == options.num_steps
        validating = last or step % options.val_every == 0
        saving = last or stop.received or step % options.save_every == 0
        logging_now = saving or validating or step % options.log_every == 0
        if logging_now:
            values = finite_values(terms, student, step, run)
            rate = (step - logged) * options.batch_size / (time.perf_counter() - clock)
            run.log(step, {**values, "lr": options.lr_g * factor, "images_per_second": rate})
            progress.set_postfix(loss=f"{values['loss']:.3f}")
        if validating:
            mean_iou = validate(student, val_set, normalization, step, run)
            progress.write(f"step {step}: mIoU {100 * mean_iou:.2f} on {len(val_set)} images of {val_set.split}")
            if mean_iou > best:
                best = mean_iou
                card = {"dataset": options.dataset, "classes": val_set.CLASSES, "step": step, "mean_iou": mean_iou}
                run.save(run.best, export_weights(student, normalization, **card))
        if saving:
            state = {"step": step, "best": best, "student": student.state_dict(), "losses": losses.state_dict()}
            run.save(run.last, {**state, "optimizer": optimizer.state_dict()})
        if logging_now:
            clock, logged = time.perf_counter(), step
        if stop.received:
            logger.warning("stopped by a signal; %s holds step %d and --resume continues there", run.last, step)
            break

    progress.close()
    run.close()
    if run.writes and not stop.received:
        write_run_report(run.folder)
    if dist.is_initialized():
        dist.destroy_process_group()
    return 128 + stop.received if stop.received else 0


def train_step(
    options: argparse.Namespace,
    step: int,
    factor: float,
    model: nn.Module,
    teacher: Teacher | None,
    task_loss: TaskLoss,
    losses: nn.ModuleList,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
) -> dict[str, Tensor]:
    """One step of the student, then of what the losses train; returns every term by name, on the device."""
    # Dropout and the critic's draws are a function of the step, so that a resumed run repeats them.
    torch.manual_seed(generator_of(options.seed, step, rank()).initial_seed())
    for group in optimizer.param_groups:
        group["lr"] = options.lr_g * factor

    with torch.autocast(images.device.type, torch.bfloat16, enabled=options.bf16):
        # The teacher first: its maps are gone before the student's, which the backward pass needs, take their memory.
        teacher_output = teacher(images, features=features_of(losses, "teacher")) if teacher else None
        student_output = model(images, features=features_of(losses, "student"))
    terms = {task_loss.name: task_loss(student_output, labels)}
    terms |= {loss.name: loss(student_output, teacher_output, labels) for loss in losses}
    total = terms[task_loss.name] + sum(loss.weight * terms[loss.name] for loss in losses)

    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    for loss in losses:
        loss.set_lr_factor(factor)
        terms |= loss.step_critic(student_output, teacher_output)
    return {"loss": total, **{f"loss/{name}": term for name, term in terms.items()}}


def build_datasets(options: argparse.Namespace) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The augmented training split and the whole images of the validation split."""
    augment = RandomCrop(
        options.input_size, options.scale_range if options.random_scale else (1.0, 1.0), options.random_mirror
    )
    train_set = build_dataset(
        options.dataset, options.data_dir, "train", transform=augment, seed=options.seed, data_list=options.data_list
    )
    val_set = build_dataset(options.dataset, options.data_dir, "val")
    if options.preload:
        train_set.preload()
        val_set.preload()
    return train_set, val_set


def build_loader(
    options: argparse.Namespace, train_set: SegmentationDataset, start: int, device: torch.device
) -> torch.utils.data.DataLoader:
    """The batches of the steps after ``start``."""
    sampler = TrainSampler(
        len(train_set), options.batch_size, options.num_steps, options.seed, start, rank(), world_size()
    )
    return torch.utils.data.DataLoader(
        train_set,
        batch_sampler=sampler,
        num_workers=options.num_workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_interrupt,
    )


def ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches loader processes too; only the trainer shall answer it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def build_student(options: argparse.Namespace, dataset: SegmentationDataset) -> tuple[nn.Module, Normalization]:
    """The student and the input convention of its weights; the data set's, if it starts from scratch."""
    student = build_network(num_classes=len(dataset.CLASSES), **network_arguments(options))
    file = options.S_ckpt_path or options.student_pretrain_model_imgnet
    if not file:
        return student, dataset.NORMALIZATION
    report = load_weights(student, file, skip_classifier=True)
    logger.info("student %s: %s", file, report)
    return student, report.normalization


def build_teacher(
    options: argparse.Namespace,
    normalization: Normalization,
    val_set: SegmentationDataset,
    device: torch.device,
    run: Run,
) -> Teacher:
    """The teacher, verified on labelled images before it is believed."""
    teacher = Teacher.from_checkpoint(
        options.T_ckpt_path, normalization, device=device, memory_format=options.memory_format
    )
    card = teacher.verify(val_set)
    before = run.folder / "teacher.json"
    if options.resume and before.exists() and json.loads(before.read_text())["sha256"] != card["sha256"]:
        raise ValueError(f"{options.T_ckpt_path} is not the teacher that {run.folder} was started with ({before})")
    logger.info("teacher %s: %s", card["file"], teacher.report)
    logger.info("teacher mIoU %.2f on %d images of %s", 100 * card["mean_iou"], card["num_images"], val_set.split)
    if run.writes:
        write_json(before, card)
    return teacher


def build_optimizer(options: argparse.Namespace, student: nn.Module) -> torch.optim.Optimizer:
    if options.optimizer == "adam":
        return torch.optim.Adam(student.parameters(), options.lr_g, weight_decay=options.weight_decay)
    return torch.optim.SGD(student.parameters(), options.lr_g, options.momentum, weight_decay=options.weight_decay)


def features_of(losses: nn.ModuleList, side: str) -> tuple[str, ...]:
    """The features that the losses ask of the "student" or the "teacher"."""
    return tuple(sorted({name for loss in losses for name in getattr(loss, f"{side}_features")}))


def finite_values(terms: Mapping[str, Tensor], student: nn.Module, step: int, run: Run) -> dict[str, float]:
    """The terms as numbers, means over all processes.

    Raises:
        FloatingPointError: a term or a weight is not finite; no checkpoint has been overwritten yet.
    """
    means = mean_over_processes(torch.stack([term.detach().float() for term in terms.values()]))
    values = dict(zip(terms, means.tolist(), strict=True))
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    wrong += [f"weight {name}" for name, value in student.named_parameters() if not value.isfinite().all()][:3]
    if wrong:
        raise FloatingPointError(
            f"step {step}: {', '.join(wrong)} not finite; {run.folder} keeps its last good checkpoint. "
            "Lower --lr-g, or the weight of the term that grew first in metrics.jsonl"
        )
    return values


def validate(
    student: nn.Module, val_set: SegmentationDataset, normalization: Normalization, step: int, run: Run
) -> float:
    """mIoU on the validation split, logged with a picture of two of its images: image, truth, prediction."""
    confusion = evaluate(student, val_set, normalization, description="validation")
    mean_iou = confusion.mean_iou()
    run.log(step, {"val/mean_iou": mean_iou, "val/pixel_accuracy": confusion.pixel_accuracy()})
    rows = []
    for sample in (val_set[0], val_set[len(val_set) // 2]):
        prediction = predict(student, sample.image[None], normalization)[0]
        maps = [colorize(ids.numpy(), val_set.PALETTE) for ids in (sample.label, prediction)]
        rows.append(np.concatenate([sample.image.permute(1, 2, 0).numpy(), *maps], axis=1))
    run.show(step, "val/image_truth_prediction", np.concatenate(rows))
    return mean_iou


if __name__ == "__main__":
    sys.exit(main())
