"""Train a segmentation network, alone or distilled from a frozen teacher.

    python train.py --network pspnet --dataset cityscapes --data-dir DIR --T_ckpt_path ckpt/teacher.pth --pi --pa --ho

A run depends on its options only: data order, augmentation, dropout and the critic's random numbers are functions of
(seed, step). So it can be killed at any time and continued with --resume to the same weights, bit for bit (on CUDA with
--deterministic). Several processes: torchrun --nproc_per_node N train.py ...
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple
from typing import NamedTuple

import torch

from segdistill.dataset import Normalization, SegmentationDataset
from segdistill.dataset.duplicates import warn_of_shared_images
from segdistill.dataset.normalization import parse_normalization
from segdistill.network import LoadReport, SegmentationNetwork
from segdistill.utils.batch import make_batches, without_unsure
from segdistill.utils.data import build_loader, build_train_sets, build_val_set
from segdistill.utils.distributed import leave, rank, start_device, wait_for_all
from segdistill.utils.flags import run_command
from segdistill.utils.mix import MIXES, mix_batch
from segdistill.utils.options import DataOptions, Options, TeacherOptions, parse_options
from segdistill.utils.precision import warn_if_slow
from segdistill.utils.run import Progress, Run, StopSignal
from segdistill.utils.stopwatch import Stopwatch, Waiting
from segdistill.utils.student import Student, build_student
from segdistill.utils.tasks import task_of
from segdistill.utils.teacher import Inference, Teacher, load_teacher
from segdistill.utils.teacher_cache import TeacherCache

logger = logging.getLogger("train")


class Group(NamedTuple):
    """Students with the same batches and teacher outputs; ``watch`` measures the teacher's time."""

    students: list[Student]
    train_set: SegmentationDataset
    watch: Stopwatch

    @property
    def options(self) -> Options:
        """Of the first student with a teacher, if one has: all that do share what a teacher needs."""
        return next((one.options for one in self.students if one.options.objective.terms), self.students[0].options)

    @property
    def wanted(self) -> frozenset[str]:
        """The teacher features that the terms read, and its logits if its confidence or its classes count."""
        also = {"logits"} if any(reads_logits(student.options.teacher) for student in self.students) else set()
        return frozenset(also).union(*(student.learner.wanted for student in self.students))

    @property
    def distilled(self) -> bool:
        """Whether one of them has terms."""
        return bool(self.options.objective.terms)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(argv)
    device = start_device(options.run.device, options.run.deterministic, options.run.timeout_minutes)
    logging.basicConfig(level=logging.INFO if rank() == 0 else logging.ERROR, format="%(message)s")
    stop = StopSignal()
    warn_if_slow(device.type, "--precision", options.optimisation.precision)
    if options.teacher.given:
        warn_if_slow(device.type, "--teacher-precision", options.teacher_precision)

    # Several students may be trained in one process: decoded images and the teacher are shared.
    each = [options, *options.also]
    runs = [Run(one) for one in each]
    train_sets = build_train_sets(each)
    digests = {data: train_set.digest() for data, train_set in train_sets.items()}  # reads every file
    for one, run in zip(each, runs, strict=True):
        run.check_data(digests[one.data], train_sets[one.data])
    loaded = load_teachers_network(options, train_sets)
    networks = [build_student(one, train_sets[one.data], device) for one in each]
    convention = networks[0][1]
    teacher = build_teacher(loaded, each, runs, convention, train_sets[options.data], device)
    students = [
        Student(one, run, train_sets[one.data], *network, teacher, device)
        for one, run, network in zip(each, runs, networks, strict=True)
    ]
    groups = [
        Group([student for student in students if student.options.data == data], train_set, Stopwatch(device))
        for data, train_set in train_sets.items()
    ]
    is_scored = any(student.is_scored for student in students)
    val_set = build_val_set(options, train_sets[options.data], teacher) if is_scored else None
    if val_set:
        digest = val_set.digest()
        for run in runs:
            run.check_validation(digest)
    warn_of_shared_images(train_sets[options.data], val_set)
    if teacher and teacher.report:  # else it is to be trained yet: --check
        verify(teacher, groups, val_set)
    if options.run.check:
        logger.info("--check: options, data and networks fit together; without it they are trained")
        return 0

    with ExitStack() as stack:
        stack.callback(leave)
        for student in students:
            stack.callback(student.run.close)
            student.open()
        fit(groups, teacher, convention, val_set, device, stop)
        leave()
        if stop.received:
            logger.warning("stopped by a signal; --resume continues %s", ", ".join(str(run.folder) for run in runs))
            return 128 + stop.received
        if options.run.stop_at:
            logger.info("stopped at step %d; --resume continues", options.run.stop_at)
            return 0
        for student in students:
            student.report()
    return 0


def fit(
    groups: Sequence[Group],
    teacher: Teacher | None,
    convention: Normalization,
    val_set: SegmentationDataset | None,
    device: torch.device,
    stop: StopSignal,
) -> None:
    """The training loop, from the current step to --stop-at, the last one or a stop signal."""
    students = [student for group in groups for student in group.students]
    options, start = students[0].options, min(student.step for student in students)
    num_steps, parts = options.optimisation.num_steps, options.optimisation.accumulate
    min_confidence = teacher and options.teacher.min_confidence
    size = options.optimisation.part_size * parts
    loaders = [build_loader(group.options, group.train_set, start, device) for group in groups]
    caches = [build_cache(group, teacher, convention) for group in groups]
    limits = students[0].task.limits(students[0].learner.network)
    primary = students[0].task.primary
    progress, score = Progress(num_steps, start, primary), f"val/{primary.key}"
    waiting = Waiting(zip(*loaders, strict=True))
    for step, samples in enumerate(waiting, start + 1):
        done = (step - 1) / num_steps
        for group, sample, cache in zip(groups, samples, caches, strict=True):
            # A student that was saved later than the others waits for them.
            learning = [student for student in group.students if student.step < step]
            num_partners = len(sample.image) - size
            batches = make_batches(
                sample, convention, device, options.run.memory_format, done, parts, num_partners, limits
            )
            for part, batch in enumerate(batches if learning else ()):
                with group.watch:
                    # Before the students' forward passes, so that the teacher's intermediate maps are freed first.
                    output = (cache or teacher)(batch, group.wanted) if group.distilled else None
                    if output and min_confidence:
                        batch = without_unsure(batch, output.logits, min_confidence)
                    if batch.num_partners:
                        batch, output = mix_batch(batch, output, options.teacher.mix, options.optimisation.seed)
                for student in learning:
                    student.accumulate(step, part, batch, output)
            if learning:
                group.watch.lap()
        stopping = stop.agreed()
        stopping_here = stopping or step == options.last_step
        numbers = {
            student.run.folder.name: student.finish(step, stopping_here, group.watch, waiting.seconds, val_set)
            for group in groups
            for student in group.students
            if student.step < step
        }
        scores = {name: row[score] for name, row in numbers.items() if score in row}
        progress.update(step, next(iter(numbers.values())).get("loss"), scores)
        if stopping:
            break
    # When one process exits, torchrun ends the others: none may while the first is still writing.
    wait_for_all()
    progress.close()


def load_teachers_network(
    options: Options, train_sets: Mapping[DataOptions, SegmentationDataset]
) -> tuple[SegmentationNetwork, LoadReport | None] | None:
    """The teacher's network and the report of its weights, if there is one; images without labels adopt its answers."""
    chosen, dataset = options.teacher, train_sets[options.data]
    if not chosen.given:
        return None
    num_channels = task_of(dataset).num_channels(dataset) if dataset.TRUTH == "labels" else None
    network, report = load_teacher(
        chosen.teacher_network, chosen.T_ckpt_path, num_channels, chosen.teacher_options, untrained=options.run.check
    )
    if dataset.TRUTH == "teacher":
        require_classes(network, options)
        for train_set in train_sets.values():
            task_of(train_set).adopt(train_set, network, report)
    return network, report


def require_classes(network: SegmentationNetwork, options: Options) -> None:
    """Raise ValueError if a term reads the logits of a network that has none."""
    reads_logits = [term for term in options.objective.terms if term.settings["on"].endswith("logits")]
    if reads_logits and not network.num_classes:
        known = ", ".join(list(network.features)[:8])
        raise ValueError(
            f"{options.teacher.T_ckpt_path or options.teacher.teacher_network} has no classes for "
            f"--{reads_logits[0].method}: distil its features ({known}) by --fitnet on=STUDENTS:TEACHERS, such as "
            "on=context:context, and train on a few labels afterwards (--S_ckpt_path)"
        )


def build_teacher(
    loaded: tuple[SegmentationNetwork, LoadReport | None] | None,
    each: Sequence[Options],
    runs: Sequence[Run],
    convention: Normalization,
    dataset: SegmentationDataset,
    device: torch.device,
) -> Teacher | None:
    """The teacher, if there is one; an error if it differs from the one that the runs were started with."""
    options, chosen = each[0], each[0].teacher
    if loaded is None:
        return None
    inference = Inference(
        device,
        options.run.memory_format,
        scale=chosen.teacher_scale,
        stride=chosen.teacher_stride,
        precision=options.teacher_precision,
        compiled=chosen.teacher_compile,
    )
    teacher = Teacher.from_report(
        *loaded,
        chosen.T_ckpt_path or chosen.teacher_network,
        convention,
        dataset=dataset,
        class_map=chosen.class_map,
        normalization=parse_normalization(chosen.teacher_normalization) if chosen.teacher_normalization else None,
        inference=inference,
    )
    if reads_logits(chosen) and "logits" not in teacher.network.features:
        flag = "--min-confidence" if chosen.min_confidence else f"--mix {chosen.mix}"
        raise ValueError(f"{flag} reads the classes that the teacher predicts, and {teacher.source} has none")
    if teacher.report:
        for run in (run for one, run in zip(each, runs, strict=True) if one.objective.terms):
            run.check_teacher(teacher.report.sha256, teacher.class_map and teacher.class_map.targets)
        logger.info("teacher %s: %s", teacher.source, teacher.report)
    return teacher


def reads_logits(options: TeacherOptions) -> bool:
    """Whether the teacher's logits are read, whatever the terms."""
    return bool(options.min_confidence or (options.mix and MIXES[options.mix].reads_classes))


def build_cache(group: Group, teacher: Teacher | None, convention: Normalization) -> TeacherCache | None:
    """The cache of teacher outputs for this seed and augmentation, if --teacher-cache is given."""
    options = group.options
    if not (options.teacher.teacher_cache and group.distilled):
        return None
    key = {"seed": options.optimisation.seed, **options.data.augmentation}
    key |= {"teacher_view": options.teacher.teacher_view} if options.teacher.teacher_view else {}
    key |= {"teacher": teacher.report.sha256, "classes": teacher.class_map, "shown": astuple(teacher.normalization)}
    key |= {name: getattr(teacher.inference, name) for name in ("scale", "stride", "precision")}
    key |= {"images": group.train_set.digest(), "input": astuple(convention)}
    return TeacherCache(options.teacher.teacher_cache, teacher, key, len(group.train_set), options.data.views)


def verify(teacher: Teacher, groups: Sequence[Group], val_set: SegmentationDataset | None) -> None:
    """Measure the teacher on labelled images before it is used; without validation, check its features."""
    wanted = frozenset().union(*(group.wanted for group in groups))
    if val_set and val_set.TRUTH == "labels":
        measured = teacher.verify(val_set, features=wanted)
    else:
        measured = teacher.verify_features(groups[0].train_set, wanted)
    primary = task_of(groups[0].train_set).primary
    if measured[primary.key] is None:
        logger.info("teacher: features are finite and differ on %d images", measured["num_images"])
    else:
        score = f"{primary.name} {primary.text(measured[primary.key])}"
        logger.info("teacher %s on %d images of %s", score, measured["num_images"], val_set.split)
    for group in groups:
        crops = teacher.measure_crops(group.train_set) if group.distilled else None
        if crops:
            score = f"{primary.name} {primary.text(crops[primary.key])}"
            entropy = f", entropy {crops['entropy']:.2f}" if "entropy" in crops else ""
            logger.info(
                "teacher %s on %d augmented crops%s: as labels for training", score, crops["num_crops"], entropy
            )
        for student in group.students:
            if student.options.objective.terms:
                student.run.teacher = {**measured, "crops": crops}


if __name__ == "__main__":
    run_command(main)
