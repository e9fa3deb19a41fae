"""Train a segmentation network, alone or distilled from a frozen teacher.

    python train.py --network pspnet --dataset cityscapes --data-dir DIR --T_ckpt_path ckpt/teacher.pth --pi --pa --ho

A run is a function of its options: data order, augmentation, dropout and the critic's draws are counted from
(seed, step), so it can be killed at any instant and continued with --resume to the same weights, bit for bit (on CUDA
with --deterministic). Several processes: torchrun --nproc_per_node N train.py ...
"""

import argparse
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import astuple

import torch

from segdistill.dataset import DATASETS, Normalization, SegmentationDataset, build_dataset
from segdistill.dataset.cache import open_cache
from segdistill.dataset.check import require_labels
from segdistill.dataset.sampler import TrainSampler
from segdistill.dataset.transforms import RandomCrop
from segdistill.utils.batch import make_batches
from segdistill.utils.distributed import leave, rank, start_device, wait_for_all, world_size
from segdistill.utils.files import write_json
from segdistill.utils.flags import run_command
from segdistill.utils.loader import Loader
from segdistill.utils.options import has_teacher, memory_format, num_unlabelled, parse_options, teacher_precision
from segdistill.utils.run import Progress, Run, StopSignal
from segdistill.utils.stopwatch import Stopwatch
from segdistill.utils.student import Student
from segdistill.utils.teacher import Teacher
from segdistill.utils.teacher_cache import TeacherCache

logger = logging.getLogger("train")


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(argv)
    device = start_device(options.device, options.deterministic)
    logging.basicConfig(level=logging.INFO if rank() == 0 else logging.ERROR, format="%(message)s")
    stop = StopSignal()

    # Several students may learn beside each other: the data and the teacher's answers are the same for all.
    each = [options, *options.also]
    runs = [Run(one) for one in each]
    train_set = build_train_set(options)
    for run in runs:
        run.check_data(train_set.digest())
    students = [Student(one, run, train_set, device) for one, run in zip(each, runs, strict=True)]
    teacher = build_teacher(options, students, train_set, device) if has_teacher(options) else None
    for student in students:
        student.learn_from(teacher)
    val_set = build_val_set(options) if any(student.learns_classes for student in students) else None
    if teacher and teacher.report:  # else it is to be trained yet: --check
        verify(teacher, train_set, val_set)
    if options.check:
        return 0

    with ExitStack() as stack:
        stack.callback(leave)
        for student in students:
            student.start(val_set)
            stack.callback(student.run.close)
            if teacher and student.options.terms and student.run.writes:
                write_json(student.run.folder / "teacher.json", teacher.card)
        fit(students, teacher, train_set, device, stop)
    if stop.received:
        logger.warning("stopped by a signal; --resume continues %s", ", ".join(str(run.folder) for run in runs))
        return 128 + stop.received
    if runs[0].writes:
        from segdistill.utils.report import write_run_report  # draws pictures: slow to import

        for run in runs:
            write_run_report(run.folder)
    return 0


def fit(
    students: Sequence[Student],
    teacher: Teacher | None,
    train_set: SegmentationDataset,
    device: torch.device,
    stop: StopSignal,
) -> None:
    """The steps from where the runs stand to the last one or a signal to stop."""
    first = students[0]
    options, normalization = first.options, first.normalization
    wanted = frozenset().union(*(student.learner.wanted for student in students))
    cache = build_cache(options, teacher, train_set, normalization) if options.teacher_cache else None
    start = min(student.step for student in students)
    progress = Progress(options.num_steps, start)
    answering = Stopwatch(device)
    for step, sample in enumerate(build_loader(options, train_set, start, device), start + 1):
        # A student that was saved later than the others waits for them.
        learning = [student for student in students if student.step < step]
        done = (step - 1) / options.num_steps
        batches = make_batches(sample, normalization, device, memory_format(options), done, options.accumulate)
        for part, batch in enumerate(batches):
            with answering:
                # Before the students: its maps are gone when theirs, which the backward pass needs, take memory.
                taught = cache(batch, wanted) if cache else teacher(batch.images, wanted) if teacher else None
            for student in learning:
                student.accumulate(step, part, batch, taught)
        answering.lap()
        stopping = stop.agreed()
        numbers = [student.finish(step, stopping, answering) for student in learning]
        progress.update(step, numbers[0].get("loss"), numbers[0].get("val/mean_iou"))
        if stopping:
            break
    # When one process exits, torchrun ends the others: none may while the first is still writing.
    wait_for_all()
    progress.close()


def build_train_set(options: argparse.Namespace) -> SegmentationDataset:
    """The augmented training split."""
    train_set = build_dataset(
        options.dataset,
        options.data_dir,
        "train",
        transform=RandomCrop(options.input_size, options.scale_range or (1.0, 1.0), options.random_mirror),
        seed=options.seed,
        data_list=options.data_list,
        unlabelled_list=options.unlabelled_list,
        labelled=options.task_weight > 0,
    )
    if options.num_labels:
        train_set.keep_labels(options.num_labels)
    if options.task_weight > 0:
        require_labels(train_set)
    keep_decoded(train_set, options)
    return train_set


def build_val_set(options: argparse.Namespace) -> SegmentationDataset:
    """The whole images of the validation split."""
    split = DATASETS[options.dataset].VALIDATION_SPLIT
    val_set = build_dataset(options.dataset, options.data_dir, split, data_list=options.val_list)
    keep_decoded(val_set, options)
    return val_set


def keep_decoded(dataset: SegmentationDataset, options: argparse.Namespace) -> None:
    """Decode the images once, into memory or into a file, if that was asked for."""
    if options.preload:
        dataset.preload()
    if options.cache_dir:
        dataset.memory = open_cache(dataset, options.cache_dir)


def build_loader(
    options: argparse.Namespace, train_set: SegmentationDataset, start: int, device: torch.device
) -> Loader:
    """The batches of the steps after ``start``."""
    sampler = TrainSampler(
        train_set.num_labelled,
        options.batch_size - num_unlabelled(options),
        options.num_steps,
        options.seed,
        start,
        rank(),
        world_size(),
        unlabelled=(len(train_set) - train_set.num_labelled, num_unlabelled(options)),
        views=options.views,
    )
    return Loader(train_set, batch_sampler=sampler, num_workers=options.num_workers, pin_memory=device.type == "cuda")


def build_teacher(
    options: argparse.Namespace, students: Sequence[Student], dataset: SegmentationDataset, device: torch.device
) -> Teacher:
    """The teacher; an error if it is not the one that the runs were started with."""
    convention, place = students[0].normalization, {"device": device, "memory_format": memory_format(options)}
    place |= {"dataset": dataset, "class_map": options.class_map, "scale": options.teacher_scale}
    place |= {"stride": options.teacher_stride, "precision": teacher_precision(options)}
    place |= {"compiled": options.teacher_compile}
    if options.teacher_network:
        place |= {"num_classes": len(dataset.CLASSES), "settings": options.teacher_options, "untrained": options.check}
        teacher = Teacher.from_network(options.teacher_network, convention, options.T_ckpt_path, **place)
    else:
        teacher = Teacher.from_checkpoint(options.T_ckpt_path, convention, **place)
    if teacher.report:
        for student in (student for student in students if student.options.terms):
            student.run.check_teacher(teacher.report.sha256, teacher.class_map and teacher.class_map.targets)
        logger.info("teacher %s: %s", teacher.source, teacher.report)
    return teacher


def build_cache(
    options: argparse.Namespace, teacher: Teacher, train_set: SegmentationDataset, normalization: Normalization
) -> TeacherCache:
    """The teacher's answers on disk, for samples of this seed and this augmentation."""
    names = ("seed", "views", "input_size", "scale_range", "random_mirror")
    key = {name: getattr(options, name) for name in names}
    key |= {"teacher": teacher.report.sha256, "classes": teacher.class_map, "scale": teacher.scale}
    key |= {"stride": teacher.stride, "precision": teacher.precision}
    key |= {"images": train_set.digest(), "input": astuple(normalization)}
    return TeacherCache(options.teacher_cache, teacher, key, len(train_set), options.views)


def verify(teacher: Teacher, train_set: SegmentationDataset, val_set: SegmentationDataset | None) -> None:
    """Measure the teacher on labelled images before it is believed; its features where nothing is scored."""
    card = teacher.verify(val_set) if val_set else teacher.verify_features(train_set)
    if card["mean_iou"] is None:
        logger.info("teacher: features are finite and differ on %d images", card["num_images"])
    else:
        logger.info("teacher mIoU %.2f on %d images of %s", 100 * card["mean_iou"], card["num_images"], val_set.split)
    card["crops"] = crops = teacher.measure_crops(train_set)
    if crops:
        figures = 100 * crops["mean_iou"], crops["num_crops"], crops["entropy"]
        logger.info("teacher mIoU %.2f on %d augmented crops, entropy %.2f: as labels for training", *figures)


if __name__ == "__main__":
    run_command(main)
