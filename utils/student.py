"""A student in training: its options, its learner and its run's folder."""

import copy
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from segdistill.dataset import Normalization, SegmentationDataset
from segdistill.dataset.base import evenly_spaced, seed_of
from segdistill.network import NETWORKS, SegmentationNetwork, SegmentationOutput, build_network
from segdistill.network.int8 import NUM_IMAGES, calibrate, int8_layers
from segdistill.network.weights.checkpoint import export_weights, load_weights
from segdistill.utils.batch import Batch
from segdistill.utils.class_weights import class_weights
from segdistill.utils.distributed import collective_device, mean_over_processes, rank, share_buffers, world_size
from segdistill.utils.evaluate import evaluate
from segdistill.utils.learner import Learner, Objective
from segdistill.utils.losses import build_losses
from segdistill.utils.optimizer import build_optimizer, frozen_backbone, schedule_of
from segdistill.utils.options import DataOptions, ObjectiveOptions, OptimisationOptions, Options
from segdistill.utils.predict import whole
from segdistill.utils.run import Run
from segdistill.utils.stopwatch import Stopwatch
from segdistill.utils.tasks import Task, build_loss, build_protocol, task_of
from segdistill.utils.teacher import Teacher

logger = logging.getLogger(__name__)

WAITING = 0.1  # the greatest share of the time that may be spent waiting for data without a warning


class Student:
    """One student of a training process; its result does not depend on the other students.

    Args:
        options: of train.py.
        run: the folder; what it holds is continued.
        train_set: training data; its classes are the student's.
        network, normalization: from ``build_student``.
        teacher: of its terms; not used without terms.
        device: where the network is.

    Raises:
        ValueError: options that do not fit the networks, or a checkpoint that does not fit the student.
    """

    def __init__(
        self,
        options: Options,
        run: Run,
        train_set: SegmentationDataset,
        network: SegmentationNetwork,
        normalization: Normalization,
        teacher: Teacher | None,
        device: torch.device,
    ):
        self.options, self.run, self.train_set, self.normalization = options, run, train_set, normalization
        self.device = device
        torch.manual_seed(seed_of("losses", options.optimisation.seed))
        teacher_network = teacher.network if teacher else None
        self.task = task_of(train_set)
        weights = None
        if options.objective.class_weights:
            if self.task.per_class is None:
                raise ValueError(f"--class-weights has no effect with --task {self.task.name}, which has no classes")
            weights = class_weights(options.objective.class_weights, train_set)
            run.check_weights(weights)
        self.learner = build_learner(
            options.objective, options.optimisation, self.task, network, teacher_network, device, weights
        )
        if options.optimisation.part_size == 1:
            check_single_image(network, self.learner.objective.needs.student, options.data.input_size)
        self.step, self.best = 0, None
        if run.state:
            self.step, self.best = run.restore(self.learner)
        self.watch = Stopwatch(device)

    @property
    def is_scored(self) -> bool:
        """Whether the feature map that the task scores is trained."""
        return self.task.feature in self.learner.objective.needs.student

    def open(self) -> None:
        """Begin to write to the run's folder; without a checkpoint, write the first one."""
        self.run.open()
        if self.run.start is not None:
            logger.info("continuing %s at step %d", self.run.folder, self.step)
        else:
            self.save()
        self.logged = self.step, time.monotonic(), 0.0
        self.warns = None  # of waiting for data: from the second row on, once

    def accumulate(self, step: int, part: int, batch: Batch, teacher_output: SegmentationOutput | None) -> None:
        """The gradient of one part of the step."""
        # Dropout and the methods' draws are a function of step and part, so that a resumed run repeats them.
        torch.manual_seed(seed_of("step", self.options.optimisation.seed, step, part, rank()))
        with self.watch:
            self.learner.accumulate(batch, teacher_output)

    def finish(
        self, step: int, stopping: bool, teacher_watch: Stopwatch, waited: float, val_set: SegmentationDataset | None
    ) -> dict[str, float]:
        """Update the weights; validate, save and log at the set intervals; returns the logged numbers.

        ``teacher_watch`` has measured the teacher; ``waited`` is for data, in seconds since the start; ``val_set`` is
        for scores.

        Raises:
            FloatingPointError: something is not finite; says what a user can do.
        """
        run = self.options.run
        torch.manual_seed(seed_of("update", self.options.optimisation.seed, step, rank()))
        try:
            with self.watch:
                values = self.learner.update()
            self.watch.lap()
            self.step = step
            last = step == self.options.optimisation.num_steps
            numbers = self.validate(val_set) if last or step % run.val_every == 0 else {}
            saving = last or stopping or numbers or step % run.save_every == 0
            # A step's row comes before its checkpoint: --resume drops rows that are ahead, and could not add one.
            if saving or step % run.log_every == 0:
                means = means_of(values)
                speed = {"lr": self.learner.rate, **self.speed(step, waited)}
                numbers |= means | self.learner.shares(means) | speed | self.costs(teacher_watch)
                self.run.log(step, numbers)
            if saving:
                self.save()
        except FloatingPointError as error:
            raise FloatingPointError(
                f"step {step}: {error}. {self.run.folder} keeps its last good checkpoint. Training it again would end "
                "here again: start anew under another --save-name with --clip-norm 1, a lower --lr-g, or less weight "
                "on the term that grew first in metrics.jsonl"
            ) from error
        return numbers

    def speed(self, step: int, waited: float) -> dict[str, float]:
        """Images a second, and the share of the time that was spent waiting for data, since the last row of metrics;
        validation and saving included."""
        (before, then, earlier), self.logged = self.logged, (step, time.monotonic(), waited)
        seconds = self.logged[1] - then
        share = (waited - earlier) / seconds
        if self.warns and share > WAITING:
            self.warns = False
            warn_of_waiting(self.run.folder, share, self.options.data)
        elif self.warns is None:  # the first batches are always waited for
            self.warns = True
        return {
            "images_per_second": (step - before) * self.options.optimisation.batch_size / seconds,
            "cost/waiting": share,
        }

    def costs(self, teacher_watch: Stopwatch) -> dict[str, float]:
        """Seconds of a step, without and of the teacher; bytes that autograd keeps of a part of a batch."""
        teacher = {"cost/teacher": teacher_watch.median()} if self.options.objective.terms else {}
        return {"cost/step": self.watch.median(), **teacher, "cost/saved": self.learner.saved_bytes}

    def report(self) -> None:
        """The end of the training, in the run's folder and its tracker."""
        summary = {} if self.best is None else {f"best/{self.task.primary.key}": self.best}
        self.run.finish(self.step, summary)
        if not self.is_scored:
            logger.info("features alone were trained; on labels: --S_ckpt_path %s --dataset NAME", self.run.best)

    def save(self) -> None:
        self.run.save_state(self.step, self.best, self.learner)

    def validate(self, val_set: SegmentationDataset | None) -> dict[str, float]:
        """Scores on ``val_set``, with pictures of two of its images: image, truth, prediction.

        Saves the weights if they are the best so far; always for a student without scores.
        """
        network = self.learner.network
        share_buffers(network)
        metadata = {"dataset": self.options.data.dataset, "step": self.step}
        if network.num_classes and self.train_set.CLASSES:
            metadata |= {"classes": self.train_set.CLASSES, "palette": self.train_set.PALETTE}
        if not self.is_scored:  # no score to choose the best step, so it is the last
            self.run.save(self.run.best, export_weights(network, self.normalization, **metadata))
            return {}
        predictor = whole(network, self.task.feature)
        # Decoded images need no workers: starting them takes longer than reading the images.
        num_workers = 0 if self.options.data.preload else self.options.data.num_workers
        # As many images at once as have the pixels of a training batch, so that they fit into memory.
        pixels = self.options.optimisation.part_size * math.prod(self.options.data.input_size)
        batch_size = max(pixels // val_set[0].label.numel(), 1)
        options = {"num_workers": num_workers, "batch_size": batch_size, "device": self.device}
        options["protocol"] = build_protocol(self.task, val_set, network, {})
        scores = evaluate(predictor, val_set, self.normalization, description="validation", **options)
        panels = []
        for i in sorted({0, len(val_set) // 2}):
            image, label, name, *_ = val_set[i]
            prediction = self.task.read(predictor.coarse(self.normalization(image[None])), label.shape)[0]
            maps = [self.task.picture(values.numpy(), val_set) for values in (label, prediction)]
            panels.append([image.permute(1, 2, 0).numpy(), *maps])
            self.run.show(f"val/{name}", np.concatenate(panels[-1], axis=1))
        figures, primary = scores.figures(), self.task.primary
        if primary.is_better(figures[primary.key], self.best):
            self.best = figures[primary.key]
            metadata[primary.key] = self.best
            self.run.save_panels(panels)
            self.run.save(self.run.best, export_weights(network, self.normalization, **metadata))
        return {f"val/{key}": value for key, value in figures.items()}


def build_student(
    options: Options, dataset: SegmentationDataset, device: torch.device
) -> tuple[SegmentationNetwork, Normalization]:
    """The network and its input convention: that of its weights, else of its library, else of the data set."""
    student = options.student
    task = task_of(dataset)
    num_channels = task.num_channels(dataset)
    torch.manual_seed(options.optimisation.seed)
    network = build_network(
        student.network, num_channels, norm=student.norm, **task.head(dataset), **student.network_options
    )
    feature = network.features.get(task.feature)
    if feature and feature.channels != num_channels:
        raise ValueError(
            f"--network {student.network} answers with {feature.channels} channels, the data set has {num_channels}: "
            "an option of the network may set that (--network-options)"
        )
    normalization = network.normalization or dataset.NORMALIZATION
    if file := student.S_ckpt_path or student.student_pretrain_model_imgnet:
        report = load_weights(network, file, skip_classifier=True)
        logger.info("student %s: %s", file, report)
        normalization = report.normalization or normalization
    network = network.to(device, memory_format=options.run.memory_format)
    if student.quantise:
        chosen = evenly_spaced(NUM_IMAGES, len(dataset))
        calibrate(network.eval(), (normalization(dataset.read(index).image[None].to(device)) for index in chosen))
        logger.info("student: int8 in %d convolutions, calibrated on %d images", len(int8_layers(network)), len(chosen))
    return network, normalization


def build_learner(
    options: ObjectiveOptions,
    optimisation: OptimisationOptions,
    task: Task,
    network: SegmentationNetwork,
    teacher: SegmentationNetwork | None,
    device: torch.device,
    weights: Sequence[float] | None = None,
) -> Learner:
    """The learner of a network: its losses and the optimizer of all trained parameters; ``weights`` of the classes.

    Raises:
        ValueError: an option that has no effect on this network.
    """
    settings = {**options.task_settings, "class_weights": weights}
    task_loss = build_loss(task, network, options.task_weight, settings) if options.task_weight else None
    losses = build_losses(options.terms, network, teacher) if teacher else {}
    objective = Objective(network, task_loss, losses, optimisation.compile).to(device)
    frozen = frozen_backbone(objective, optimisation)
    return Learner(
        objective,
        build_optimizer(objective, optimisation),
        schedule=schedule_of(optimisation),
        frozen=frozen,
        precision=optimisation.precision,
        clip_norm=optimisation.clip_norm,
        ema=optimisation.ema,
        parts=optimisation.accumulate,
    )


def check_single_image(network: SegmentationNetwork, wanted: frozenset[str], size: tuple[int, int]) -> None:
    """Raise ValueError if the network's ``wanted`` maps cannot be trained on one image of ``size`` (H, W) at a time.

    BatchNorm of a globally pooled map has a single value a channel then, and no variance.
    """
    if trains_on_one_image(network, wanted, size):
        return
    with torch.device("meta"):
        others = {name: build_network(name, 21) for name in sorted(NETWORKS)}
    able = [name for name, other in others.items() if trains_on_one_image(other, frozenset({"logits"}), size)]
    raise ValueError(
        f"{network.config['name']} normalises globally pooled maps over the batch, and one image has no variance: "
        "--batch-size, the number of processes and --accumulate must leave 2 images or more at a time "
        f"({', '.join(able)} do not need that)"
    )


def trains_on_one_image(network: SegmentationNetwork, wanted: frozenset[str], size: tuple[int, int]) -> bool:
    """Whether BatchNorm works in train mode on one image of ``size`` (H, W); computes shapes only."""
    shadow = copy.deepcopy(network).to("meta").train()
    try:
        shadow.all_maps(torch.empty(1, 3, *size, device="meta"), wanted)
    except ValueError as error:
        if "more than 1 value" in str(error):
            return False
        raise
    except RuntimeError:  # some modules cannot be run without values
        return True
    return True


def warn_of_waiting(folder: Path, share: float, data: DataOptions) -> None:
    remedy = f"give more --num-workers than {data.num_workers} (this machine has {os.cpu_count()} cores)"
    if not (data.preload or data.cache_dir):
        remedy += ", or decode the images once, by --preload or --cache-dir DIR"
    logger.warning("%s waits for data in %.0f %% of its time: %s", folder, 100 * share, remedy)


def means_of(numbers: dict[str, float]) -> dict[str, float]:
    """The means over all processes."""
    if world_size() == 1:
        return numbers
    means = mean_over_processes(torch.tensor([*numbers.values()], device=collective_device()))
    return dict(zip(numbers, means.tolist(), strict=True))
