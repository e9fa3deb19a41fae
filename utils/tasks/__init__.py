"""Tasks: one file each. A task is registered by its import and its entry here."""

import inspect
from collections.abc import Callable, Mapping

from torch import nn

from segdistill.dataset import DATASETS, SegmentationDataset
from segdistill.network import SegmentationNetwork
from segdistill.utils.tasks.agreement import agreement_of
from segdistill.utils.tasks.base import Figure, Scores, Task
from segdistill.utils.tasks.depth import Depth
from segdistill.utils.tasks.segmentation import Segmentation

__all__ = [
    "AGREEMENTS",
    "TASKS",
    "Figure",
    "Scores",
    "Task",
    "build_loss",
    "build_protocol",
    "task_named",
    "task_of",
    "task_of_network",
]

TASKS: dict[str, Task] = {task.name: task for task in (Segmentation(), Depth())}


# The same where a teacher's predictions are the labels.
AGREEMENTS: dict[str, Task] = {name: agreement_of(task) for name, task in TASKS.items()}


def task_of(dataset: SegmentationDataset | type[SegmentationDataset]) -> Task:
    """The task that a data set was opened for; for a class, its first task."""
    return named(getattr(dataset, "task", dataset.TASKS[0]), dataset.TRUTH)


def task_named(record: Mapping) -> Task:
    """The task of options.json, evaluation.json and the like; the data set's first where it says none."""
    dataset = DATASETS.get(record.get("dataset"), SegmentationDataset)
    return named(record.get("task") or dataset.TASKS[0], dataset.TRUTH)


def task_of_network(network: SegmentationNetwork) -> Task:
    """The task that a network answers in. ValueError if it is none."""
    for task in TASKS.values():
        if task.feature in network.features:
            return task
    raise ValueError(f"{network.config['name']} answers in no task that is known here: {', '.join(TASKS)}")


def named(name: str, truth: str) -> Task:
    return (AGREEMENTS if truth == "teacher" else TASKS)[name]


def build_loss(task: Task, network: SegmentationNetwork, weight: float, settings: Mapping[str, object]) -> nn.Module:
    """The task's loss on labels with the settings that were given; those that are None were not.

    Raises:
        ValueError: a setting that the task does not have, or that does not fit the network; a network without its map.
    """
    return task.loss(network, weight=weight, **given_to(task, task.loss, settings))


def build_protocol(
    task: Task, dataset: SegmentationDataset, network: SegmentationNetwork, settings: Mapping[str, object]
) -> dict:
    """The task's part of an evaluation's protocol with the settings that were given. Raises: ValueError, as above."""
    return task.protocol(dataset, network, **given_to(task, task.protocol, settings))


def given_to(task: Task, function: Callable, settings: Mapping[str, object]) -> dict[str, object]:
    """The settings that are not None; ValueError names those that are no parameters of ``function``."""
    given = {name: value for name, value in settings.items() if value is not None}
    if unknown := sorted(given.keys() - inspect.signature(function).parameters.keys()):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in unknown)
        raise ValueError(f"{flags} has no effect with --task {task.name}")
    return given
