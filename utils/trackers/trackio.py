"""Trackio. TRACKIO_DIR, TRACKIO_SPACE_ID and so on are its own variables."""

import os
import uuid
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from pathlib import Path

import numpy as np

from segdistill.utils.trackers.base import PROJECT, Subject, Tracker


class Trackio(Tracker):
    """It knows runs by their names alone, so the name has an id that tells it from those of other folders."""

    PACKAGE = "trackio"

    def __init__(self, subject: Subject, id: str | None):
        import trackio

        self.trackio, self.id = trackio, id or f"{subject.name}-{uuid.uuid4().hex[:6]}"
        # In a context of its own: init ends the run of the context, and several students train in one process.
        self.run = copy_context().run(
            trackio.init,
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=self.id,
            group=subject.group,
            config={**subject.options, "environment": dict(subject.environment)},
            resume="allow" if id else "never",
            embed=False,
        )

    def last_step(self) -> int | None:
        return max(self.run._next_step - 1, 0)

    def log(self, step: int, values: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        images = {name: self.trackio.Image(picture) for name, picture in pictures.items()}
        self.run.log({**values, **images}, step=step)

    def report(self, step: int, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        texts = {file.name: self.trackio.Markdown(file.read_text()) for file in files if file.suffix == ".md"}
        images = {file.name: self.trackio.Image(str(file)) for file in files if file.suffix == ".png"}
        self.run.log({**summary, **texts, **images}, step=step)

    def close(self, finished: bool) -> None:
        self.run.finish()
