"""Scores where the teacher's predictions are the labels: agreement with the teacher, named so everywhere."""

from collections.abc import Mapping

from segdistill.dataset import SegmentationDataset
from segdistill.utils.tasks.base import Figure, Scores, Task

PREFIX = "agreement_"


class AgreementScores:
    """Scores whose figures are named as agreement; all else is theirs."""

    def __init__(self, scores: Scores):
        self.scores = scores

    def figures(self) -> dict[str, float]:
        return {PREFIX + key: value for key, value in self.scores.figures().items()}

    def __getattr__(self, name: str) -> object:
        return getattr(self.scores, name)


class Agreement(Task):
    """Mixed into a task: the same scores under the names of agreement."""

    def scores(self, dataset: SegmentationDataset, protocol: Mapping | None = None) -> AgreementScores:
        return AgreementScores(super().scores(dataset, protocol))

    def summary(self, scores: AgreementScores, dataset: SegmentationDataset, protocol: Mapping) -> dict:
        own = {figure.key for figure in super().figures}
        values = super().summary(scores.scores, dataset, protocol)
        return {PREFIX + key if key in own else key: value for key, value in values.items()}


def agreement_of(task: Task) -> Task:
    """The task with the teacher's predictions as labels."""
    kind = type(task)
    figures = tuple(renamed(figure) for figure in task.figures)
    per_class = task.per_class and task.per_class._replace(name=f"{task.per_class.name} with the teacher")
    return type(f"{kind.__name__}Agreement", (Agreement, kind), {"figures": figures, "per_class": per_class})()


def renamed(figure: Figure) -> Figure:
    return figure._replace(key=PREFIX + figure.key, name=f"{figure.name} with the teacher")
