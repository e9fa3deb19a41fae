"""The options of train.py: six frozen dataclasses. A field is a flag; its type, limits, default and meaning stand here.

Each class checks its own fields, ``Options`` checks them against each other.
"""

import dataclasses
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from segdistill.dataset import DATASETS
from segdistill.dataset.augment import AUGMENTATIONS, parse_augmentations
from segdistill.dataset.normalization import parse_normalization
from segdistill.libs import NORMS
from segdistill.network import NETWORKS, network_class
from segdistill.network.settings import Limits, settings_of
from segdistill.utils.class_weights import FORMULAS
from segdistill.utils.distributed import MINUTES
from segdistill.utils.losses import Term
from segdistill.utils.mix import MIXES
from segdistill.utils.tasks import TASKS
from segdistill.utils.trackers import TRACKERS, require_tracker

Precision = Literal["float32", "bf16", "fp16"]
Purpose = Literal["experiment", "bookkeeping", "input"]
SEVERAL = ("key=value", "NAME[=VALUE]")  # metavars of flags that take any number of words
Schedule = Literal["poly", "cosine", "constant", "multistep"]


def option(
    default: Any,
    meaning: str,
    metavar: str | tuple[str, str] | None = None,
    *,
    purpose: Purpose = "experiment",
    recipe: bool = False,
    own: bool = False,
    rare: bool = False,
    least: float | None = None,
    greatest: float | None = None,
    above: float | None = None,
    choices: Collection[str] | None = None,
) -> Any:
    """A dataclass field that becomes a flag.

    Args:
        metavar: its value in the help; two names for two words.
        purpose: "bookkeeping" options do not change the result and may change when the run is continued;
            "input" is a file that may have moved.
        recipe: the data set's recipe gives the default.
        own: a student of ``--also`` may have its own.
        rare: ``--help`` names it, ``--help all`` explains it.
        least, greatest, above, choices: allowed values; a registry of choices is looked up when the flag is read.
    """
    metadata = {"meaning": meaning, "limits": Limits(least, greatest, above, choices), "metavar": metavar}
    metadata |= {"purpose": purpose, "recipe": recipe, "own": own, "rare": rare}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def file_option(meaning: str, purpose: Purpose = "bookkeeping") -> Any:
    """A field that names a file which has to exist."""
    return option(None, meaning, "FILE", purpose=purpose)


def require_files(options: object) -> None:
    """Raise ValueError for a field made by ``file_option`` whose file does not exist."""
    for field in dataclasses.fields(options):
        file = getattr(options, field.name)
        if field.metadata.get("metavar") == "FILE" and file and not Path(file).is_file():
            raise ValueError(f"{flag_of(field.name)}: no file {file}")


def flag_of(name: str) -> str:
    """``num_steps`` to ``--num-steps``; the originals' own spelling stays: ``--T_ckpt_path``."""
    return f"--{name if name[0].isupper() else name.replace('_', '-')}"


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    dataset: str = option("scenes", "scenes is made on first use", "NAME", choices=DATASETS)
    task: str | None = option(None, "what to learn (the data set's first)", "NAME", choices=TASKS)
    data_dir: str | None = option(None, "folder of the data set", "DIR", purpose="bookkeeping")
    data_list: str | None = file_option("'image label' lines in place of the training split", "input")
    val_list: str | None = file_option("the same in place of the split that validates", "input")
    input_size: tuple[int, int] | None = option(None, "training crop", "H,W", recipe=True, least=1, greatest=2**16)
    random_scale: bool | None = option(None, "scale each sample by a factor in --scale-range", recipe=True)
    scale_range: tuple[float, float] | None = option(None, "", ("MIN", "MAX"), recipe=True, least=1 / 16, greatest=16)
    random_mirror: bool | None = option(None, "mirror half of the samples", recipe=True)
    scale_step: float | None = option(None, "factors at this distance only: 0.1", "S", rare=True, above=0)
    short_side: tuple[int, int] | None = option(
        None, "scale the short side to a length between, for --random-scale", ("MIN", "MAX"), rare=True, least=1
    )
    max_class_share: float | None = option(
        None, "seek crops in which no class has more: 0.75", "S", rare=True, above=0, greatest=1
    )
    augment: tuple[str, ...] = option((), "colours and more: jitter=0.4 blur; see --list-augmentations", "NAME[=VALUE]")
    num_labels: int | None = option(
        None, "keep the labels of N images, evenly spaced (none: all)", "N", own=True, least=1
    )
    unlabelled_list: str | None = file_option("images without labels, one a line, to be distilled", "input")
    unlabelled_share: float | None = option(None, "their part of every batch (0.5)", "S", own=True, above=0)
    views: int | None = option(None, "augmentations of each image, repeated after K epochs", "K", least=1)
    preload: bool = option(False, "decode the data set once and keep it in memory", purpose="bookkeeping")
    cache_dir: Path | None = option(
        None, "decode the data set once and keep it in files there", "DIR", purpose="bookkeeping"
    )
    num_workers: int = option(2, "loader processes", "N", purpose="bookkeeping", least=0, greatest=1024)

    def __post_init__(self):
        made = DATASETS[self.dataset].DEFAULT_ROOT is not None
        if not self.data_dir and not made:
            raise ValueError(f"--dataset {self.dataset} needs --data-dir")
        if self.data_dir and not made and not Path(self.data_dir).is_dir():
            raise ValueError(f"--data-dir: no folder {self.data_dir}")
        require_files(self)
        if self.preload and self.cache_dir:
            raise ValueError("--preload and --cache-dir both keep what was decoded: give one")
        if self.unlabelled_share is not None and not self.unlabelled_list and not self.num_labels:
            raise ValueError("--unlabelled-share has no effect without --unlabelled-list or --num-labels")
        if self.scale_range and not self.random_scale:
            raise ValueError("--scale-range has no effect without --random-scale")
        if self.scale_range and self.scale_range[0] > self.scale_range[1]:
            raise ValueError(
                f"--scale-range {self.scale_range[0]} {self.scale_range[1]}: the smaller factor comes first"
            )
        if self.short_side and self.random_scale:
            raise ValueError("--short-side and --random-scale both scale: give one")
        if self.short_side and self.short_side[0] > self.short_side[1]:
            raise ValueError(f"--short-side {self.short_side[0]} {self.short_side[1]}: the smaller length comes first")
        low, high = self.scale_range or (1.0, 1.0)
        if self.scale_step and self.scale_step > high - low:
            raise ValueError(f"--scale-step {self.scale_step:g} leaves one factor of {low:g} ... {high:g}")

    @property
    def augmentation(self) -> dict[str, object]:
        """All that a training sample depends on except its image and the seed."""
        always = ("views", "input_size", "scale_range", "random_mirror")
        given = (name for name in ("scale_step", "short_side", "max_class_share", "augment") if getattr(self, name))
        return {name: getattr(self, name) for name in (*always, *given)}


@dataclass(frozen=True, kw_only=True)
class StudentOptions:
    network: str = option(
        "pspnet",
        f"or {', '.join(sorted(NETWORKS.keys() - {'pspnet'}))}; torchvision:, timm:, smp:, hf:NAME; FILE.py:CLASS",
        "NAME",
    )
    network_options: dict[str, object] = option({}, "settings of --network", "key=value")
    norm: str = option("batch_norm", f"or {', '.join(sorted(NORMS.keys() - {'batch_norm'}))}", "NAME", choices=NORMS)
    student_pretrain_model_imgnet: str | None = file_option("ImageNet weights of the backbone", "input")
    S_ckpt_path: str | None = file_option("a checkpoint of the whole student to start from", "input")
    quantise: Literal["int8"] | None = option(
        None, "int8: --S_ckpt_path goes on learning with its convolutions rounded", rare=True
    )

    def __post_init__(self):
        require_files(self)
        if self.S_ckpt_path and self.student_pretrain_model_imgnet:
            raise ValueError(
                "--S_ckpt_path and --student-pretrain-model-imgnet both set the student's weights: give one"
            )
        if self.quantise and not self.S_ckpt_path:
            raise ValueError("--quantise starts from a trained student: --S_ckpt_path FILE")
        if self.student_pretrain_model_imgnet and "backbone" not in settings_of(network_class(self.network)):
            raise ValueError(
                f"--student-pretrain-model-imgnet has no effect with {self.network}, which has no backbone"
            )


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """Options of the teacher; without a teacher all are at their defaults."""

    T_ckpt_path: str | None = file_option("the teacher; its network is read from the file")
    class_map: str | None = option(None, "'teacher class -> class of the data set' lines, or -> none", "FILE")
    teacher_scale: float | None = option(
        None, "of the images that the teacher sees (the file's, or 1)", "S", above=0, greatest=16
    )
    teacher_network: str | None = option(None, "as --network, for a file without metadata, or without a file", "NAME")
    teacher_options: dict[str, object] = option({}, "settings of --teacher-network", "key=value")
    teacher_normalization: str | None = option(
        None, "its input: imagenet, unit, caffe, half (the file's)", "NAME", rare=True
    )
    teacher_stride: int | None = option(None, "resize finer teacher maps to this stride (none)", "S", least=1)
    teacher_precision: Precision | None = option(None, "autocast of the teacher alone (as the student)")
    teacher_compile: bool = option(False, "torch.compile, which folds BatchNorm too", rare=True)
    teacher_view: Literal["weak"] | None = option(
        None, "weak: it sees the crop without the colours of --augment", rare=True
    )
    min_confidence: float | None = option(
        None, "of the teacher, below which unlabelled pixels do not count", "P", above=0, greatest=1, rare=True
    )
    mix: str | None = option(
        None, "paste parts of images without labels into others: cutmix, classmix", "NAME", rare=True, choices=MIXES
    )
    teacher_cache: Path | None = option(None, "cache of teacher outputs; with --views", "DIR", purpose="bookkeeping")

    def __post_init__(self):
        if self.teacher_options and not self.teacher_network:
            raise ValueError("--teacher-options has no effect without --teacher-network")
        if not self.given:
            for field in dataclasses.fields(self):
                if getattr(self, field.name) not in (None, False, {}):
                    raise ValueError(f"{flag_of(field.name)} has no effect without a teacher")
        if self.teacher_normalization:
            parse_normalization(self.teacher_normalization)
        require_files(self)

    @property
    def given(self) -> bool:
        """Whether there is a teacher."""
        return bool(self.T_ckpt_path or self.teacher_network)


@dataclass(frozen=True, kw_only=True)
class Ohem:
    """Settings of --ohem."""

    threshold: float = option(0.7, "of the true class's probability; pixels below it are kept", least=0, greatest=1)
    min_kept: int = option(100_000, "pixels to keep at least", least=0)


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    terms: tuple[Term, ...] = ()  # --METHOD and --loss, each occurrence one
    task_weight: float = option(1.0, "weight of the loss on labels; 0: no labels are needed", "W", least=0)
    aux_weight: float | None = option(None, "of the auxiliary head, where there is one (0.4)", "W", rare=True, least=0)
    class_weights: str | None = option(
        None, "'class weight' lines or JSON, or computed of the labels", "FILE|inverse|enet"
    )
    label_smoothing: float | None = option(
        None, "share of the target for all classes", "S", rare=True, above=0, greatest=1
    )
    focal: float | None = option(None, "(1 - p)^G x cross-entropy", "G", rare=True, above=0)
    dice: float | None = option(None, "weight of a Dice loss beside cross-entropy", "W", rare=True, above=0)
    lovasz: float | None = option(None, "weight of a Lovász loss beside it", "W", rare=True, above=0)
    depth_loss: Literal["silog", "l1", "berhu", "ssi"] | None = option(None, "of --task depth (silog)", rare=True)
    ohem: dict[str, float] | None = option(None, "hard pixels only: threshold=0.7 min_kept=100000", "key=value")

    def __post_init__(self):
        if self.task_weight == 0:
            if not self.terms:
                raise ValueError("--task-weight 0 leaves nothing to learn from without a distillation method")
            for name in (*self.task_settings, "class_weights"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{flag_of(name)} has no effect with --task-weight 0")
        if self.focal and self.ohem:
            raise ValueError("--focal and --ohem both choose hard pixels: give one")
        if self.class_weights and self.class_weights not in FORMULAS and not Path(self.class_weights).is_file():
            raise ValueError(f"--class-weights: no file {self.class_weights}, nor one of {', '.join(FORMULAS)}")

    @property
    def task_settings(self) -> dict[str, object]:
        """The settings of ``Task.loss`` that are options as they are; None where not given."""
        names = ("aux_weight", "ohem", "label_smoothing", "focal", "dice", "lovasz", "depth_loss")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class OptimisationOptions:
    num_steps: int | None = option(None, "training steps", "N", recipe=True, least=1)
    batch_size: int | None = option(None, "of all processes together", "N", recipe=True, least=1)
    accumulate: int = option(1, "parts of a batch in turn", "N", least=1)
    optimizer: Literal["adam", "adamw", "sgd"] | None = option(None, "", recipe=True)
    lr_g: float | None = option(None, "learning rate", "LR", recipe=True, above=0)
    lr_factor: dict[str, float] = option(
        {}, "of the learning rate of backbone, head or adapters: head=10", "key=value", rare=True
    )
    layer_decay: float | None = option(
        None,
        "factor from a block of a transformer's backbone to the one before",
        "D",
        rare=True,
        above=0,
        greatest=1,
    )
    momentum: float | None = option(None, "of sgd (0.9)", "M", least=0, greatest=1)
    weight_decay: float | None = option(None, "", "W", recipe=True, least=0)
    no_decay_norms: bool = option(False, "no weight decay of norms and biases", rare=True)
    schedule: Schedule = option("poly", "of the learning rate: poly, cosine, constant, multistep", "NAME")
    power: float = option(0.9, "of poly: lr * (1 - step/steps)^P", "P", rare=True, least=0)
    min_lr: float = option(0.0, "where poly and cosine end", "LR", rare=True, least=0)
    milestones: tuple[float, ...] | None = option(
        None, "of multistep, steps or shares of them: 0.6,0.9", "N,N...", rare=True, above=0
    )
    gamma: float | None = option(None, "of multistep: factor at each milestone (0.1)", "F", rare=True, above=0)
    warmup: float | None = option(None, "steps, or share of them, in which the rate rises from 0", "N", above=0)
    freeze: dict[str, float] = option(
        {}, "backbone, or backbone=S until that share of the steps", "key=value", rare=True
    )
    clip_norm: float | None = option(None, "greatest norm of the gradient", "X", above=0)
    ema: float | None = option(None, "keep a moving average of weights", "D", least=0, greatest=1)
    precision: Precision = option("float32", "autocast; losses stay in float32")
    compile: bool = option(False, "torch.compile of the student and the terms; rounds otherwise", rare=True)
    seed: int = option(0, "of all that is random", "N", least=0, greatest=2**64 - 1)

    def __post_init__(self):
        if self.optimizer != "sgd" and self.momentum is not None:
            raise ValueError(f"--momentum has no effect with --optimizer {self.optimizer}")
        self._check_schedule()
        if self.batch_size % self.shares:
            raise ValueError(
                f"--batch-size {self.batch_size} does not divide by {self.shares} (processes x --accumulate)"
            )

    def _check_schedule(self) -> None:
        given = {
            "power": self.power != 0.9 and "poly",
            "min_lr": self.min_lr and "poly or cosine",
            "milestones": self.milestones and "multistep",
            "gamma": self.gamma and "multistep",
        }
        for name, schedules in given.items():
            if schedules and self.schedule not in schedules:
                raise ValueError(f"{flag_of(name)} has no effect with --schedule {self.schedule}: it is {schedules}'s")
        if self.schedule == "multistep" and not self.milestones:
            raise ValueError("--schedule multistep needs --milestones, such as 0.6,0.9")
        if self.min_lr >= self.lr_g:
            raise ValueError(f"--min-lr {self.min_lr:g} is not below --lr-g {self.lr_g:g}")
        for flag, values in (("--warmup", (self.warmup or 0,)), ("--milestones", self.milestones or ())):
            for value in values:
                if value > 1 and value != int(value):
                    raise ValueError(f"{flag} {value:g}: expected whole steps, or a share of the training below 1")
                if self.share(value) >= 1:
                    raise ValueError(f"{flag} {value:g} is not within the training of --num-steps {self.num_steps}")
        for part, until in self.freeze.items():
            if part != "backbone" or not 0 < until <= 1:
                raise ValueError(f"--freeze {part}={until:g}: expected backbone, or backbone=S with a share above 0")

    def share(self, steps: float) -> float:
        """A share of the training as it is, a number of steps, 1 or more, as a share."""
        return steps if steps < 1 else steps / self.num_steps

    @property
    def shares(self) -> int:
        """The parts of a batch, of all processes together."""
        return int(os.environ.get("WORLD_SIZE", 1)) * self.accumulate

    @property
    def part_size(self) -> int:
        """Images that a process sees at a time."""
        return self.batch_size // self.shares


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    snapshot_dir: Path = option(Path("snapshots"), "where runs are kept", "DIR", purpose="bookkeeping")
    save_name: str | None = option(None, "the run's folder (made from the options)", "FOLDER", purpose="bookkeeping")
    resume: bool = option(False, "continue the run in that folder, if there is one", purpose="bookkeeping")
    save_every: int = option(200, "steps between checkpoints", "N", purpose="bookkeeping", least=1)
    val_every: int = option(1000, "steps between validations", "N", least=1)
    stop_at: int | None = option(
        None, "save after this step and end; --resume continues", "N", purpose="bookkeeping", rare=True, least=1
    )
    log_every: int = option(20, "steps between rows of metrics", "N", purpose="bookkeeping", rare=True, least=1)
    track: str | None = option(
        None,
        f"follow the run there too: {', '.join(TRACKERS)}",
        "NAME",
        purpose="bookkeeping",
        rare=True,
        choices=TRACKERS,
    )
    device: str | None = option(None, "cuda if there is one, else cpu", "DEVICE", purpose="bookkeeping")
    channels_last: bool = option(True, "channels_last memory format", rare=True)
    deterministic: bool = option(False, "the same bits on CUDA too, slower", rare=True)
    timeout_minutes: float = option(
        MINUTES, "wait so long for other processes, then end", "M", purpose="bookkeeping", rare=True, above=0
    )
    check: bool = option(
        False, "check options, data, networks and teacher, and stop before the first step", purpose="bookkeeping"
    )

    def __post_init__(self):
        if not re.fullmatch(r"[^/\\\0]+", self.save_name) or self.save_name in (".", ".."):
            raise ValueError(f"--save-name: expected the name of one folder, not {self.save_name!r}")
        if self.track:
            require_tracker(self.track)

    @property
    def folder(self) -> Path:
        return self.snapshot_dir / self.save_name

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def on_cpu(self) -> bool:
        return (self.device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cpu"


@dataclass(frozen=True, kw_only=True)
class Options:
    """All options of a student's run; ``also``: those of the other students of the same process.

    Raises:
        ValueError: options that contradict each other; one sentence that names the flag and the remedy.
    """

    data: DataOptions
    student: StudentOptions
    teacher: TeacherOptions
    objective: ObjectiveOptions
    optimisation: OptimisationOptions
    run: RunOptions
    also: tuple["Options", ...] = ()

    def __post_init__(self):
        self._check_terms_have_a_teacher()
        self._check_batches()
        self._check_labels()
        if self.run.stop_at and self.run.stop_at >= self.optimisation.num_steps:
            raise ValueError(
                f"--stop-at {self.run.stop_at} has no effect with --num-steps {self.optimisation.num_steps}: give less"
            )
        network = network_class(self.student.network)
        if self.optimisation.precision == "bf16" and self.run.on_cpu and network.BF16_ON_CPU:
            raise ValueError(f"--precision bf16: {network.BF16_ON_CPU}")
        if self.student.quantise and self.optimisation.precision != "float32":
            raise ValueError("--quantise rounds what is float32: no --precision beside it")
        if self.student.quantise and self.optimisation.compile:
            raise ValueError("--compile has no effect with --quantise: torch cannot compile its rounding")

    def _check_terms_have_a_teacher(self) -> None:
        terms, teacher = self.objective.terms, self.teacher
        if terms and not teacher.given and not (self.run.check and self.objective.task_weight):
            raise ValueError(f"--{terms[0].method} needs a teacher: --T_ckpt_path FILE or --teacher-network NAME")
        if teacher.given and not terms:
            flag = "--T_ckpt_path" if teacher.T_ckpt_path else "--teacher-network"
            raise ValueError(f"{flag} has no effect without a distillation method: see --list-methods")
        if teacher.teacher_cache and not self.data.views:
            raise ValueError("--teacher-cache needs --views K: without it no sample comes twice")
        steps = parse_augmentations(self.data.augment)
        if teacher.teacher_view and not any(AUGMENTATIONS[name].photometric for name in steps):
            raise ValueError("--teacher-view weak has no effect without --augment of colours: see --list-augmentations")

    def _check_labels(self) -> None:
        if DATASETS[self.data.dataset].TRUTH == "teacher":
            if not self.teacher.given:
                raise ValueError(
                    f"--dataset {self.data.dataset} has no labels, a teacher gives the classes: --T_ckpt_path FILE or "
                    "--teacher-network NAME"
                )
            if self.objective.task_weight:
                raise ValueError(f"--task-weight has no effect with --dataset {self.data.dataset}: it has no labels")
        for name in ("unlabelled_list", "num_labels"):
            if self.objective.task_weight == 0 and getattr(self.data, name):
                raise ValueError(
                    f"{flag_of(name)} has no effect with --task-weight 0, which needs no labels: --data-list"
                )
        unlabelled = self.data.unlabelled_share or DATASETS[self.data.dataset].TRUTH == "teacher"
        lists_images = self.data.data_list and not self.objective.task_weight  # its lines may name an image alone
        for name, there in (("mix", unlabelled), ("min_confidence", unlabelled or lists_images)):
            if getattr(self.teacher, name) and not there:
                raise ValueError(
                    f"{flag_of(name)} has no effect without images without labels: --unlabelled-list, --num-labels "
                    "with --unlabelled-share, or --dataset images"
                )
        if self.data.unlabelled_share and not self.objective.terms and not self.run.check:
            raise ValueError("images without labels teach nothing without a distillation method")

    def _check_batches(self) -> None:
        share, batch_size = self.data.unlabelled_share, self.optimisation.batch_size
        if share is not None and not 0 < self.num_unlabelled < batch_size:
            raise ValueError(
                f"--unlabelled-share {share} of a batch of {batch_size} leaves no labelled or no unlabelled image in it"
            )
        ohem = self.objective.ohem
        pixels = self.optimisation.part_size * self.data.input_size[0] * self.data.input_size[1]
        if ohem and ohem["min_kept"] >= pixels:
            raise ValueError(
                f"--ohem keeps {ohem['min_kept']} pixels at least, but a process sees {pixels} at a time, so it "
                f"would have no effect: min_kept={pixels // 16}, say"
            )

    @property
    def last_step(self) -> int:
        """The step after which this process ends; rates and schedules follow --num-steps."""
        return self.run.stop_at or self.optimisation.num_steps

    @property
    def num_unlabelled(self) -> int:
        """Unlabelled images in a batch."""
        return round((self.data.unlabelled_share or 0) * self.optimisation.batch_size)

    @property
    def teacher_precision(self) -> str:
        """--teacher-precision, else the student's precision."""
        return self.teacher.teacher_precision or self.optimisation.precision


PARTS = {field.name: field.type for field in dataclasses.fields(Options) if field.name != "also"}
FIELDS: Mapping[str, dataclasses.Field] = {
    field.name: field for part in PARTS.values() for field in dataclasses.fields(part)
}
FLAGS = {name: field for name, field in FIELDS.items() if field.metadata}
DEFAULTS = {
    name: field.default_factory() if field.default is dataclasses.MISSING else field.default
    for name, field in FIELDS.items()
}
# Options that may change when a run is continued; and those of them that do not affect the experiment.
BOOKKEEPING = {name for name, field in FLAGS.items() if field.metadata["purpose"] != "experiment"}
PLACES = {name for name, field in FLAGS.items() if field.metadata["purpose"] == "bookkeeping"}
# Options that concern the teacher alone: without one they have no effect.
TEACHING = {field.name for field in dataclasses.fields(TeacherOptions)}
