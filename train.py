"""Train a segmentation network, alone or distilled from a frozen teacher.

    python train.py --network pspnet --dataset cityscapes --data-dir DIR --T_ckpt_path ckpt/teacher.pth --pi --pa --ho

A run is a function of its options: data order, augmentation, dropout and the critic's draws are counted from
(seed, step), so it can be killed at any instant and continued with --resume to the same weights, bit for bit (on CUDA
with --deterministic). Several processes: torchrun --nproc_per_node N train.py ...
"""

import argparse
import logging

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from segdistill.dataset import Normalization, SegmentationDataset, build_dataset
from segdistill.dataset.base import require_labels, seed_of
from segdistill.dataset.sampler import TrainSampler
from segdistill.dataset.transforms import RandomCrop
from segdistill.network import SegmentationNetwork, build_network
from segdistill.utils.batch import make_batches
from segdistill.utils.checkpoint import export_weights, load_weights
from segdistill.utils.distributed import (
    mean_over_processes,
    rank,
    share_buffers,
    start_device,
    wait_for_all,
    world_size,
)
from segdistill.utils.evaluate import evaluate
from segdistill.utils.flags import run_command
from segdistill.utils.learner import Learner, Objective, poly
from segdistill.utils.loader import Loader
from segdistill.utils.losses import TaskLoss, build_losses
from segdistill.utils.options import parse_options
from segdistill.utils.predict import class_ids, whole
from segdistill.utils.run import Progress, Run, StopSignal, read_json, write_json
from segdistill.utils.teacher import Teacher
from segdistill.utils.visualize import colorize

logger = logging.getLogger("train")


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    device = start_device(options.device, options.deterministic)
    logging.basicConfig(level=logging.INFO if rank() == 0 else logging.ERROR, format="%(message)s")
    run = Run(options)
    stop = StopSignal()

    train_set, val_set = build_datasets(options)
    torch.manual_seed(options.seed)
    student, normalization = build_student(options, train_set)
    student.to(device, memory_format=memory_format(options))
    teacher = build_teacher(options, normalization, val_set, device, run) if options.T_ckpt_path else None
    learner = build_learner(options, student, teacher, device)
    if options.check:
        return 0

    run.open()
    if run.writes and teacher:
        write_json(run.folder / "teacher.json", teacher.card)
    try:
        fit(options, run, stop, learner, teacher, normalization, train_set, val_set, device)
    except FloatingPointError as error:
        raise FloatingPointError(
            f"{error}. {run.folder} keeps its last good checkpoint. Training it again would end here again: start anew "
            "under another --save-name with --clip-norm 1, a lower --lr-g, or less weight on the term that grew first "
            "in metrics.jsonl"
        ) from error
    finally:
        run.close()
        if dist.is_initialized():
            dist.destroy_process_group()
    if stop.received:
        logger.warning("stopped by a signal; --resume continues %s", run.folder)
        return 128 + stop.received
    if run.writes:
        from segdistill.utils.report import write_run_report  # draws pictures: slow to import

        write_run_report(run.folder)
    return 0


def fit(
    options: argparse.Namespace,
    run: Run,
    stop: StopSignal,
    learner: Learner,
    teacher: Teacher | None,
    normalization: Normalization,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset,
    device: torch.device,
) -> None:
    """The steps from where the run stands to the last one or a signal to stop."""
    start, best = 0, -1.0
    if run.state:
        start, best = run.state["step"], run.state["best"]
        learner.load_state_dict(run.state)
        logger.info("continuing %s at step %d", run.folder, start)
    else:
        run.save(run.last, {"step": start, "best": best, **learner.state_dict()})

    progress = Progress(options.num_steps, start)
    for step, sample in enumerate(build_loader(options, train_set, start, device), start + 1):
        # Dropout and the critic's draws are a function of the step, so that a resumed run repeats them.
        torch.manual_seed(seed_of("step", options.seed, step, rank()))
        done = (step - 1) / options.num_steps
        for batch in make_batches(sample, normalization, device, memory_format(options), done, options.accumulate):
            with learner.autocast():
                # Before the student: its maps are gone when the student's, which the backward pass needs, take memory.
                taught = teacher(batch.images, learner.wanted) if teacher else None
            learner.accumulate(batch, taught)
        try:
            values = learner.update()
        except FloatingPointError as error:
            raise FloatingPointError(f"step {step}: {error}") from error

        last, stopping = step == options.num_steps, stop.agreed()
        validating = last or step % options.val_every == 0
        saving = last or stopping or validating or step % options.save_every == 0
        # A step's rows come before its checkpoint: --resume drops rows that are ahead, and could not add a missing one.
        loss = score = None
        if saving or step % options.log_every == 0:
            numbers = numbers_of(values)
            loss = numbers["loss"]
            images_per_second = progress.rate(step) * options.batch_size
            run.log(step, {**numbers, "lr": learner.rate, "images_per_second": images_per_second})
        if validating:
            score = validate(options, learner, val_set, normalization, step, run)
            if score > best:
                best = score
                card = {"dataset": options.dataset, "classes": val_set.CLASSES, "step": step, "mean_iou": score}
                run.save(run.best, export_weights(learner.network, normalization, **card))
        if saving:
            run.save(run.last, {"step": step, "best": best, **learner.state_dict()})
        progress.update(step, loss, score)
        if stopping:
            break
    # When one process exits, torchrun ends the others: none may while the first is still writing.
    wait_for_all()
    progress.close()


def build_datasets(options: argparse.Namespace) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The augmented training split and the whole images of the validation split."""
    augment = RandomCrop(options.input_size, options.scale_range or (1.0, 1.0), options.random_mirror)
    train_set = build_dataset(
        options.dataset, options.data_dir, "train", transform=augment, seed=options.seed, data_list=options.data_list
    )
    val_set = build_dataset(options.dataset, options.data_dir, "val")
    require_labels(train_set)
    if options.preload:
        train_set.preload()
        val_set.preload()
    return train_set, val_set


def build_loader(
    options: argparse.Namespace, train_set: SegmentationDataset, start: int, device: torch.device
) -> Loader:
    """The batches of the steps after ``start``."""
    sampler = TrainSampler(
        len(train_set), options.batch_size, options.num_steps, options.seed, start, rank(), world_size()
    )
    return Loader(train_set, batch_sampler=sampler, num_workers=options.num_workers, pin_memory=device.type == "cuda")


def build_student(
    options: argparse.Namespace, dataset: SegmentationDataset
) -> tuple[SegmentationNetwork, Normalization]:
    """The student and the input convention of its weights; the data set's, if it starts from scratch."""
    student = build_network(options.network, len(dataset.CLASSES), norm=options.norm, **options.network_options)
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
        options.T_ckpt_path, normalization, device=device, memory_format=memory_format(options)
    )
    before = run.folder / "teacher.json"
    if run.state and before.exists() and read_json(before)["sha256"] != teacher.report.sha256:
        raise ValueError(f"{options.T_ckpt_path} is not the teacher that {run.folder} was started with ({before})")
    logger.info("teacher %s: %s", options.T_ckpt_path, teacher.report)
    card = teacher.verify(val_set)
    logger.info("teacher mIoU %.2f on %d images of %s", 100 * card["mean_iou"], card["num_images"], val_set.split)
    return teacher


def build_learner(
    options: argparse.Namespace, student: SegmentationNetwork, teacher: Teacher | None, device: torch.device
) -> Learner:
    has_head = "aux_logits" in student.features
    if options.aux_weight and not has_head:
        raise ValueError(f"--aux-weight has no effect with {options.network}, which has no auxiliary head")
    aux_weight = (0.4 if options.aux_weight is None else options.aux_weight) if has_head else 0.0
    losses = build_losses(options.terms, student, teacher.network) if teacher else {}
    objective = Objective(student, TaskLoss(aux_weight, options.ohem), losses).to(device)
    return Learner(
        objective,
        build_optimizer(options, objective),
        schedule=poly(options.power),
        precision="bf16" if options.bf16 else "fp16" if options.fp16 else "float32",
        clip_norm=options.clip_norm,
        ema=options.ema,
        parts=options.accumulate,
    )


def build_optimizer(options: argparse.Namespace, objective: Objective) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    if options.optimizer == "adam":
        return torch.optim.Adam(parameters, options.lr_g, weight_decay=options.weight_decay)
    return torch.optim.SGD(parameters, options.lr_g, options.momentum, weight_decay=options.weight_decay)


def memory_format(options: argparse.Namespace) -> torch.memory_format:
    return torch.channels_last if options.channels_last else torch.contiguous_format


def numbers_of(values: dict[str, Tensor]) -> dict[str, float]:
    """Scalars as numbers, means over all processes."""
    means = mean_over_processes(torch.stack([value.detach().float() for value in values.values()]))
    return dict(zip(values, means.tolist(), strict=True))


def validate(
    options: argparse.Namespace,
    learner: Learner,
    val_set: SegmentationDataset,
    normalization: Normalization,
    step: int,
    run: Run,
) -> float:
    """mIoU on the validation split, logged with a picture of two of its images: image, truth, prediction."""
    share_buffers(learner.network)
    predictor = whole(learner.network)
    # Decoded images need no help, and starting processes takes longer than reading a few.
    num_workers = 0 if options.preload else options.num_workers
    confusion = evaluate(predictor, val_set, normalization, num_workers=num_workers, description="validation")
    mean_iou = confusion.mean_iou()
    run.log(step, {"val/mean_iou": mean_iou, "val/pixel_accuracy": confusion.pixel_accuracy()})
    for i in sorted({0, len(val_set) // 2}):
        image, label, name, _ = val_set[i]
        prediction = class_ids(predictor(normalization(image[None])))[0]
        maps = [colorize(ids.numpy(), val_set.PALETTE) for ids in (label, prediction)]
        run.show(step, f"val/{name}", np.concatenate([image.permute(1, 2, 0).numpy(), *maps], axis=1))
    return mean_iou


if __name__ == "__main__":
    run_command(main)
