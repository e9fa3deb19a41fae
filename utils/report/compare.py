"""Compares groups of runs with a baseline, paired by seed. An unfair comparison is an error."""

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from segdistill.libs.files import sha256_of
from segdistill.utils.options import PLACES, TEACHING
from segdistill.utils.report.read import FinishedRun, evaluated, read_evaluation, read_run
from segdistill.utils.tasks import Task, task_named

# Options in which the runs of a group may differ. Teachers are files too, but compared by their checksum.
FREE = PLACES | {"seed"}
# Evaluations side by side agree in these.
SUBJECT = ("dataset", "task", "images", "classes", "protocol")
# Training times within this factor are equal: the cost of a step is not measured more exactly.
EQUAL_TIME = 1.1


@dataclass
class Delta:
    """A group minus the baseline, 0..1.

    seeds: delta of the task's primary figure of each seed.
    classes: for each class the deltas of its own figure, one a seed; empty if the class occurs in no pair.
    """

    seeds: dict[int, float]
    classes: list[list[float]]

    @property
    def mean(self) -> float:
        return statistics.mean(self.seeds.values())

    @property
    def margin(self) -> float | None:
        """Half the 95 % interval of the mean by Student's t; None with one seed, which has no spread."""
        from scipy.special import stdtrit  # slow to import

        n = len(self.seeds)
        return float(stdtrit(n - 1, 0.975)) * statistics.stdev(self.seeds.values()) / sqrt(n) if n > 1 else None

    @property
    def p_value(self) -> float | None:
        """Of the paired t-test, two-sided, whose interval ``margin`` gives; None with one seed."""
        from scipy.special import stdtr  # slow to import

        n = len(self.seeds)
        if n == 1:
            return None
        error = statistics.stdev(self.seeds.values()) / sqrt(n)
        if error == 0:
            return 0.0 if self.mean else 1.0
        return 2 * float(stdtr(n - 1, -abs(self.mean) / error))

    @property
    def class_means(self) -> list[float | None]:
        return [statistics.mean(deltas) if deltas else None for deltas in self.classes]


@dataclass
class Group:
    """Runs that differ only in their seed, ordered by seed. The baseline has no ``delta``."""

    name: str
    runs: dict[int, FinishedRun]
    delta: Delta | None = None

    @property
    def scores(self) -> dict[int, float]:
        """The primary figure of the task by seed."""
        return {seed: run.evaluation[self.task.primary.key] for seed, run in self.runs.items()}

    @property
    def task(self) -> Task:
        return self.first.task

    @property
    def mean(self) -> float:
        return statistics.mean(self.scores.values())

    @property
    def std(self) -> float | None:
        """Over the seeds, of a sample; None with one."""
        return statistics.stdev(self.scores.values()) if len(self.runs) > 1 else None

    @property
    def first(self) -> FinishedRun:
        """The run of the smallest seed."""
        return next(iter(self.runs.values()))

    @property
    def seconds(self) -> float | None:
        """Training time, the mean over the seeds; None if it was not measured."""
        known = [run.seconds for run in self.runs.values() if run.seconds]
        return statistics.mean(known) if known else None


@dataclass
class Caveats:
    """Limits of a comparison that readers must know.

    one_seed: there is no spread, so nothing follows for other seeds.
    chosen_on_evaluated: the checkpoints were chosen by their scores on the images that were evaluated.
    times: the training time of a group as a multiple of the baseline's, by name, where it is not equal.
    continued: the runs that were given more steps after their start, by name: rows of "step" and "num_steps".
    processes: the environments of runs that were continued with another number of processes, by name.
    environments: each entry that is not the same everywhere: its values, each with the names of its runs.
    """

    one_seed: bool
    chosen_on_evaluated: bool
    times: dict[str, float]
    continued: dict[str, list[dict]]
    processes: dict[str, dict]
    environments: dict[str, dict[str, list[str]]]


@dataclass
class Comparison:
    """``groups`` begins with the baseline; ``varied`` are the options that were allowed to differ between groups.

    ``teacher_evaluation`` is None if there is no teacher to show, or no evaluation next to its checkpoint.
    """

    groups: list[Group]
    teacher: Path | None
    teacher_evaluation: dict | None
    varied: list[str]
    caveats: Caveats

    @property
    def p_values(self) -> list[float | None]:
        """For each group after the baseline, that its delta is not 0: corrected by Holm if there are several."""
        found = [group.delta.p_value for group in self.groups[1:]]
        return found if None in found else holm(found)


def compare_groups(
    baseline: Sequence[Path],
    groups: Sequence[tuple[str, Sequence[Path]]],
    teacher: Path | None = None,
    varied: Sequence[str] = (),
) -> Comparison:
    """Pair every group's runs with the baseline's of the same seed.

    Args:
        baseline: folders of runs.
        groups: name and folders of each; the name "auto" is made of the distillation terms.
        teacher: the folder of a run or a checkpoint, to be shown next to the groups; None: not shown.
        varied: options, such as ``lr_g`` or ``network_options.p``, in which the groups may differ besides their terms.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the comparison would not be fair, or a name occurs twice.
    """
    sides = [make_group(name, folders) for name, folders in (("auto", baseline), *groups)]
    check_names([group.name for group in sides])
    for group in sides:
        check_group(group)
    for group in sides[1:]:
        check_pair(sides[0], group, varied)
        group.delta = delta_of(sides[0], group)
    distilled = [group for group in sides if group.first.terms]
    for group in distilled[1:]:
        check_pair(distilled[0], group, varied)
    check_varied(sides, varied)

    checkpoint, evaluation = teacher_files(teacher) if teacher else (None, None)
    if evaluation and evaluation["sha256"] != sha256_of(checkpoint):
        evaluation = None
    runs = named_runs(sides)
    check_teachers(runs, checkpoint)
    evaluations = {name: run.evaluation for name, run in runs.items()}
    check_same_subject(evaluations | ({"the teacher": unmapped(evaluation)} if evaluation else {}))
    return Comparison(sides, checkpoint, evaluation, list(varied), caveats_of(sides))


def make_group(name: str, folders: Sequence[Path]) -> Group:
    """Raises ValueError if a seed occurs twice, else as ``read_run``."""
    runs = [read_run(folder) for folder in folders]
    by_seed = {run.options["seed"]: run for run in runs}
    if len(by_seed) < len(runs):
        raise ValueError(f"a seed occurs twice among {', '.join(str(folder) for folder in folders)}")
    if name == "auto":
        name = " + ".join(term["name"] for term in runs[0].terms) or "alone"
    return Group(name, dict(sorted(by_seed.items())))


def named_runs(groups: Sequence[Group]) -> dict[str, FinishedRun]:
    """Runs by name, "group seed 0"."""
    return {f"{group.name} seed {seed}": run for group in groups for seed, run in group.runs.items()}


def delta_of(baseline: Group, group: Group) -> Delta:
    """Group minus baseline, seed by seed."""
    seeds = {seed: after - baseline.scores[seed] for seed, after in group.scores.items()}
    classes = [[] for _ in classes_of(baseline.first.evaluation)]
    for seed, run in group.runs.items():
        pairs = zip(classes_of(baseline.runs[seed].evaluation), classes_of(run.evaluation), strict=True)
        for deltas, ((_, before), (_, after)) in zip(classes, pairs, strict=True):
            if before is not None and after is not None:
                deltas.append(after - before)
    return Delta(seeds, classes)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of tests that are made together, so that all their errors together stay below the level.

    The smallest of n is multiplied by n, the next by n - 1 ..., each no less than the one before, at most 1. Holm, A
    Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 1979.
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = least
    return adjusted


def classes_of(evaluation: Mapping) -> list[tuple[str, float | None]]:
    """(class, figure) pairs, None for an absent class; [] for a task without classes."""
    figure = task_named(evaluation).per_class
    return list(zip(evaluation["classes"], evaluation[figure.key], strict=True)) if figure else []


def teacher_files(teacher: Path) -> tuple[Path, dict | None]:
    """A checkpoint and its evaluation, from a run's folder, a folder with an evaluation, or a file next to one."""
    evaluation = read_evaluation(teacher if teacher.is_dir() else teacher.parent)
    if teacher.is_dir():
        teacher = evaluated(teacher, evaluation) if evaluation else teacher / "best.pth"
    if not teacher.is_file():
        raise FileNotFoundError(f"no teacher {teacher}: give the folder of a run or a checkpoint")
    return teacher, evaluation


def unmapped(evaluation: Mapping) -> dict:
    """An evaluation without its class map, by which a teacher has the students' classes."""
    protocol = {key: value for key, value in evaluation["protocol"].items() if key != "class_map"}
    return {**evaluation, "protocol": protocol}


# ------------------------------------------------------------------------------------------------- what is refused


def differences(first: Mapping, other: Mapping) -> dict[str, tuple]:
    """Both values of each key that differs; a missing key is None."""
    keys = sorted(key for key in first.keys() | other.keys() if first.get(key) != other.get(key))
    return {key: (first.get(key), other.get(key)) for key in keys}


def listed(differing: Mapping[str, tuple]) -> str:
    return "; ".join(f"{key}: {first} and {other}" for key, (first, other) in differing.items())


def belongs_to(key: str, options: Collection[str]) -> bool:
    """Whether a flat key such as "network_options.p" is one of the options, or a part of one."""
    return any(key == option or key.startswith(f"{option}.") for option in options)


def check_names(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1} | ({"teacher"} & set(names)))
    if twice:
        raise ValueError(f"the name {twice[0]!r} is taken; groups are called {', '.join(names)}: give each its own")


def check_group(group: Group) -> None:
    """Raise ValueError unless every run is complete and evaluated, and seeds are the only difference."""
    for run in group.runs.values():
        check_complete(run)
        check_same_settings(group.first, run, FREE)
        if (before := teacher_of(group.first)) != (after := teacher_of(run)):
            raise ValueError(f"{group.first.folder} learned from teacher {before}, {run.folder} from {after}")


def check_pair(baseline: Group, group: Group, varied: Sequence[str]) -> None:
    """Raise ValueError unless both have the same seeds and differ in their terms and in ``varied`` alone.

    Teacher options are not compared if one of two groups has no teacher.
    """
    for one, other in ((group, baseline), (baseline, group)):
        if missing := sorted(other.runs.keys() - one.runs.keys()):
            raise ValueError(
                f"runs pair up by seed, but {one.name!r} lacks seeds {missing} of {other.name!r}: "
                "train them, or leave their partners out"
            )
    teaching = () if baseline.first.terms and group.first.terms else TEACHING
    check_same_settings(baseline.first, group.first, {*FREE, "terms", *varied, *teaching})


def check_complete(run: FinishedRun) -> None:
    last, goal = run.metrics[-1]["step"] if run.metrics else 0, run.options["num_steps"]
    if last < goal:
        raise ValueError(f"{run.folder} stopped at step {last} of {goal}: train.py --resume continues it")
    if run.evaluation is None:
        raise ValueError(
            f"{run.folder} has no evaluation of its present checkpoint: "
            f"eval.py --checkpoint {run.folder}/best.pth --output {run.folder}/evaluation.json"
        )


def check_same_settings(first: FinishedRun, other: FinishedRun, free: set[str]) -> None:
    differing = differences(*(run.settings | {"evaluated checkpoint": run.checkpoint.name} for run in (first, other)))
    if problems := {key: values for key, values in differing.items() if not belongs_to(key, free)}:
        raise ValueError(
            f"{first.folder} and {other.folder} cannot be compared fairly, they differ in {listed(problems)}"
        )


def check_varied(groups: Sequence[Group], varied: Sequence[str]) -> None:
    """Raise ValueError for an option in which no group differs from the baseline: it may be misspelt."""
    differing = {key for group in groups[1:] for key in differences(groups[0].first.settings, group.first.settings)}
    for option in varied:
        if not any(belongs_to(key, [option]) for key in differing):
            raise ValueError(f"--vary {option}: no group differs from {groups[0].name!r} in it")


def check_same_subject(evaluations: Mapping[str, Mapping]) -> None:
    """Raise ValueError unless all evaluations are of the same task, images and classes, by the same protocol."""
    subjects = {name: {key: evaluation.get(key) for key in SUBJECT} for name, evaluation in evaluations.items()}
    (first, subject), *others = subjects.items()
    for name, other in others:
        if problems := differences(subject, other):
            raise ValueError(
                f"the evaluations of {first} and {name} cannot be compared, they differ in {listed(problems)}"
            )


def teacher_of(run: FinishedRun) -> str | None:
    """The checksum of the run's teacher."""
    return run.teacher["sha256"] if run.teacher else None


def check_teachers(runs: Mapping[str, FinishedRun], checkpoint: Path | None) -> None:
    """Raise ValueError unless all runs that have a teacher have the same one, ``checkpoint`` if that is given."""
    files = {teacher_of(run): f"{run.teacher['file']} (of {name})" for name, run in runs.items() if run.teacher}
    if checkpoint:
        files.setdefault(sha256_of(checkpoint), f"{checkpoint} (of --teacher)")
    if len(files) > 1:
        raise ValueError(f"the runs need one teacher, but these files differ: {', '.join(files.values())}")


# ---------------------------------------------------------------------------------------------- what must be known


def caveats_of(groups: Sequence[Group]) -> Caveats:
    """``groups`` begins with the baseline."""
    runs, first = named_runs(groups), groups[0].first
    return Caveats(
        one_seed=len({run.options["seed"] for run in runs.values()}) == 1,
        chosen_on_evaluated=first.evaluation["split"] == "val"
        and first.checkpoint.name == "best.pth"
        and sum(any(key.startswith("val/") for key in row) for row in first.metrics) > 1,
        times=unequal_times(groups),
        continued={name: run.options["continued"] for name, run in runs.items() if run.options.get("continued")},
        processes={name: run.environment for name, run in runs.items() if run.environment.get("processes_before")},
        environments=environments_of(runs),
    )


def unequal_times(groups: Sequence[Group]) -> dict[str, float]:
    """The training times of the groups that are not equal to the baseline's, as multiples of it, by name."""
    baseline, *others = groups
    if not baseline.seconds:
        return {}
    times = {group.name: group.seconds / baseline.seconds for group in others if group.seconds}
    return {name: time for name, time in times.items() if max(time, 1 / time) > EQUAL_TIME}


def environments_of(runs: Mapping[str, FinishedRun]) -> dict[str, dict[str, list[str]]]:
    """The entries of the environments that differ, but for dates and earlier stages: {entry: {value: names}}."""
    found = {}
    for key in sorted({key for run in runs.values() for key in run.environment} - {"date", "processes_before"}):
        names = {}
        for name, run in runs.items():
            names.setdefault(str(run.environment.get(key)), []).append(name)
        if len(names) > 1:
            found[key] = names
    return found
