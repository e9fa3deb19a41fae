"""The contract of a tracker: a run's options, rows of metrics, pictures and report, by a library of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

PROJECT = "segdistill"  # where a tracker's own variables name no other


class Subject(NamedTuple):
    """What a tracker is told of a run at its start.

    folder: of the run; a tracker may keep files there.
    name: of the run, for people; group: that of the runs beside it.
    options, environment: what options.json and environment.json hold.
    """

    folder: Path
    name: str
    group: str
    options: Mapping[str, object]
    environment: Mapping[str, object]


class Tracker:
    """A run in a tracker. Every method may raise what the library raises; the library is imported in ``__init__``.

    Args:
        subject: the run.
        id: of the tracked run to continue; None begins one.
    """

    PACKAGE: ClassVar[str]  # what is imported; the extra of segdistill has the tracker's name
    id: str  # finds the tracked run again

    def __init__(self, subject: Subject, id: str | None):
        raise NotImplementedError

    def last_step(self) -> int:
        """The last step of which the tracker holds a row; 0 without any. What a kill took is not counted."""
        raise NotImplementedError

    def log(self, step: int, values: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        """A row of metrics, and pictures (H, W, 3) uint8 of the same step. Steps increase."""
        raise NotImplementedError

    def report(self, step: int, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """The end of the training, at its last step: figures of the whole run, and report.md with its pictures."""
        raise NotImplementedError

    def close(self, finished: bool) -> None:
        """Send what is waiting; ``finished``: the training reached its end."""
        raise NotImplementedError
