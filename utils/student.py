"""A student in training: its options, its learner and its run's folder, together for as many steps as it takes."""

import argparse
import logging
import time

import numpy as np
import torch
from torch import Tensor

from segdistill.dataset import Normalization, SegmentationDataset
from segdistill.dataset.base import seed_of
from segdistill.network import SegmentationNetwork, SegmentationOutput, build_network
from segdistill.network.weights.checkpoint import export_weights, load_weights
from segdistill.utils.batch import Batch
from segdistill.utils.distributed import mean_over_processes, rank, share_buffers
from segdistill.utils.evaluate import evaluate
from segdistill.utils.learner import Learner, Objective, poly
from segdistill.utils.losses import TaskLoss, build_losses
from segdistill.utils.options import memory_format, precision
from segdistill.utils.predict import whole
from segdistill.utils.run import Run
from segdistill.utils.stopwatch import Stopwatch
from segdistill.utils.teacher import Teacher
from segdistill.utils.visualize import colorize

logger = logging.getLogger(__name__)


class Student:
    """What happens to it depends on its own options alone, not on the students that are trained beside it.

    Args:
        options: of train.py.
        run: the folder; what it holds is continued.
        dataset: what it learns from; its classes are the student's.

    Raises:
        ValueError: options that do not fit the networks, or a checkpoint that does not fit the student.
    """

    def __init__(self, options: argparse.Namespace, run: Run, dataset: SegmentationDataset, device: torch.device):
        self.options, self.run, self.dataset, self.device = options, run, dataset, device
        torch.manual_seed(options.seed)
        network, self.normalization = build_student(options, dataset)
        self.network = network.to(device, memory_format=memory_format(options))
        self.step, self.best = 0, -1.0

    def learn_from(self, teacher: Teacher | None) -> None:
        """Build what the network is to learn by; a student without terms learns alone, whatever the teacher."""
        torch.manual_seed(seed_of("losses", self.options.seed))
        self.learner = build_learner(self.options, self.network, teacher, self.device)

    @property
    def learns_classes(self) -> bool:
        """Whether its logits are trained, so that there is something to score."""
        return "logits" in self.learner.objective.wanted.student

    def start(self, val_set: SegmentationDataset | None) -> None:
        """Take up the run where its checkpoint stands, or write its first one; ``val_set`` is for scores."""
        self.val_set = val_set
        if self.run.state:
            self.step, self.best = self.run.restore(self.learner)
        self.run.open()
        if self.run.start is not None:
            logger.info("continuing %s at step %d", self.run.folder, self.step)
        else:
            self.save()
        self.logged = self.step, time.monotonic()
        self.watch = Stopwatch(self.device)

    def accumulate(self, step: int, part: int, batch: Batch, taught: SegmentationOutput | None) -> None:
        """The gradient of one part of the step."""
        # Dropout and the methods' draws are a function of step and part, so that a resumed run repeats them.
        torch.manual_seed(seed_of("step", self.options.seed, step, part, rank()))
        with self.watch:
            self.learner.accumulate(batch, taught)

    def finish(self, step: int, stopping: bool, answering: Stopwatch) -> dict[str, float]:
        """Update, and validate, save and log when it is time to; returns the numbers that were logged.

        ``answering`` has measured the teacher.

        Raises:
            FloatingPointError: something is not finite; says what a user can do.
        """
        torch.manual_seed(seed_of("update", self.options.seed, step, rank()))
        try:
            with self.watch:
                values = self.learner.update()
            self.watch.lap()
            self.step = step
            last = step == self.options.num_steps
            numbers = self.validate() if last or step % self.options.val_every == 0 else {}
            saving = last or stopping or numbers or step % self.options.save_every == 0
            # A step's row comes before its checkpoint: --resume drops rows that are ahead, and could not add one.
            if saving or step % self.options.log_every == 0:
                means = numbers_of(values)
                speed = {"lr": self.learner.rate, "images_per_second": self.speed(step)}
                numbers |= means | self.learner.shares(means) | speed | self.costs(answering)
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

    def speed(self, step: int) -> float:
        """Images a second since the last row of metrics, validation and saving included."""
        (before, then), self.logged = self.logged, (step, time.monotonic())
        return (step - before) * self.options.batch_size / (self.logged[1] - then)

    def costs(self, answering: Stopwatch) -> dict[str, float]:
        """Seconds of its own part of a step and of the teacher's answers; bytes that a part of a batch keeps."""
        teacher = {"cost/teacher": answering.median()} if self.options.terms else {}
        return {"cost/step": self.watch.median(), **teacher, "cost/saved": self.learner.saved_bytes}

    def save(self) -> None:
        self.run.save_state(self.step, self.best, self.learner)

    def validate(self) -> dict[str, float]:
        """Scores on the validation split, with pictures of two of its images: image, truth, prediction.

        Keeps the weights if they are the best so far; those of a student that learns no classes in any case.
        """
        network = self.learner.network
        share_buffers(network)
        card = {"dataset": self.options.dataset, "step": self.step}
        card |= {"classes": self.dataset.CLASSES} if network.num_classes else {}
        if not self.learns_classes:  # nothing says which step was best, so it is the last
            self.run.save(self.run.best, export_weights(network, self.normalization, **card))
            return {}
        predictor = whole(network)
        # Decoded images need no help, and starting processes takes longer than reading a few.
        num_workers = 0 if self.options.preload else self.options.num_workers
        confusion = evaluate(predictor, self.val_set, self.normalization, None, num_workers, "validation")
        mean_iou = confusion.mean_iou()
        for i in sorted({0, len(self.val_set) // 2}):
            image, label, name, _ = self.val_set[i]
            prediction = predictor.class_ids(self.normalization(image[None]))[0]
            maps = [colorize(ids.numpy(), self.val_set.PALETTE) for ids in (label, prediction)]
            panel = np.concatenate([image.permute(1, 2, 0).numpy(), *maps], axis=1)
            self.run.show(self.step, f"val/{name}", panel)
        if mean_iou > self.best:
            self.best = mean_iou
            self.run.save(self.run.best, export_weights(network, self.normalization, **card, mean_iou=mean_iou))
        return {"val/mean_iou": mean_iou, "val/pixel_accuracy": confusion.pixel_accuracy()}


def build_student(
    options: argparse.Namespace, dataset: SegmentationDataset
) -> tuple[SegmentationNetwork, Normalization]:
    """The student and the input convention of its weights; its library's or the data set's, if they do not tell."""
    network = build_network(options.network, len(dataset.CLASSES), norm=options.norm, **options.network_options)
    file = options.S_ckpt_path or options.student_pretrain_model_imgnet
    if not file:
        return network, network.normalization or dataset.NORMALIZATION
    report = load_weights(network, file, skip_classifier=True)
    logger.info("student %s: %s", file, report)
    return network, report.normalization or network.normalization or dataset.NORMALIZATION


def build_learner(
    options: argparse.Namespace, network: SegmentationNetwork, teacher: Teacher | None, device: torch.device
) -> Learner:
    has_head = "aux_logits" in network.features
    if options.aux_weight and not has_head:
        raise ValueError(f"--aux-weight has no effect with {options.network}, which has no auxiliary head")
    aux_weight = (0.4 if options.aux_weight is None else options.aux_weight) if has_head else 0.0
    if options.task_weight and "logits" not in network.features:
        raise ValueError(
            f"{options.network} has no classes to learn from labels: --task-weight 0 distils its features alone, and "
            "smp: builds a decoder on the same backbone (--network smp:unet --network-options encoder_name=tu-NAME)"
        )
    task_loss = TaskLoss(aux_weight, options.ohem, options.task_weight) if options.task_weight else None
    losses = build_losses(options.terms, network, teacher.network) if teacher and options.terms else {}
    objective = Objective(network, task_loss, losses).to(device)
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    if options.optimizer == "adam":
        optimizer = torch.optim.Adam(parameters, options.lr_g, weight_decay=options.weight_decay)
    else:
        optimizer = torch.optim.SGD(parameters, options.lr_g, options.momentum, weight_decay=options.weight_decay)
    return Learner(
        objective,
        optimizer,
        schedule=poly(options.power),
        precision=precision(options),
        clip_norm=options.clip_norm,
        ema=options.ema,
        parts=options.accumulate,
    )


def numbers_of(values: dict[str, Tensor]) -> dict[str, float]:
    """Scalars as numbers, means over all processes."""
    means = mean_over_processes(torch.stack([value.detach().float() for value in values.values()]))
    return dict(zip(values, means.tolist(), strict=True))
