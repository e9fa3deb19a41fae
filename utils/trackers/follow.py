"""A run that is followed in a tracker, whatever fails there."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from segdistill.utils.files import read_json, read_row, write_json
from segdistill.utils.trackers.base import Subject, Tracker

logger = logging.getLogger(__name__)
FILE = "track.json"


class Following:
    """A run in a tracker. A failure there is one warning, and no end of the training.

    A row of metrics is sent once: the tracker is asked what it has, which is left out, and what it lacks is sent from
    metrics.jsonl when it is opened and at the end. ``track.json`` keeps the tracked run's id by the tracker's name.

    Args:
        name, kind: the tracker.
        subject: the run.
        continued: the run goes on; a failure is an error of a new run alone.

    Raises:
        ValueError: the tracker cannot begin.
    """

    def __init__(self, name: str, kind: type[Tracker], subject: Subject, continued: bool):
        self.name, self.folder = name, subject.folder
        self.tracker, self.works = None, True
        try:
            self._open(kind, subject)
        except Exception as error:  # a library may raise anything
            if not continued:
                reason = first_line(error)
                raise ValueError(f"--track {name}: {reason} (no run was begun; it can do without --track)") from error
            self._warn(error)

    def _open(self, kind: type[Tracker], subject: Subject) -> None:
        path = self.folder / FILE
        ids = read_json(path) if path.exists() else {}
        self.tracker = kind(subject, ids.get(self.name))
        write_json(path, ids | {self.name: self.tracker.id})
        self.sent = self.tracker.last_step()
        self._catch_up()

    def log(self, step: int, values: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        """A row of metrics, and pictures (H, W, 3) uint8 of the same step. After a failure nothing until the end."""
        if self.works:
            self._attempt(self._send, step, values, pictures)

    def report(self, step: int, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """As ``Tracker.report``; before it, the rows that are missing there."""
        if self.tracker:
            self._attempt(self._catch_up)
            self._attempt(self.tracker.report, step, summary, files)

    def close(self, finished: bool) -> None:
        """As ``Tracker.close``."""
        if self.tracker:
            self._attempt(self.tracker.close, finished)

    def _attempt(self, action: Callable, *arguments: object) -> None:
        try:
            action(*arguments)
        except Exception as error:  # a library may raise anything
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if self.works:
            logger.warning(
                "--track %s: %s; the training goes on, and the rows that are missing there are sent at its end or by "
                "--resume",
                *(self.name, first_line(error)),
            )
        self.works = False

    def _catch_up(self) -> None:
        path = self.folder / "metrics.jsonl"
        for line in path.read_text().splitlines() if path.exists() else ():
            row = read_row(line)
            self._send(row.pop("step"), row, {})

    def _send(self, step: int, values: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        if step > self.sent:
            self.tracker.log(step, values, pictures)
            self.sent = step


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
