"""Weights & Biases. WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY and so on are its own variables."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from segdistill.utils.trackers.base import PROJECT, Subject, Tracker

# Of a .wandb file: bytes before the first piece and of each one's header, bytes of a block, kinds of pieces.
HEADER, BLOCK, WHOLE, LAST = 7, 2**15, 1, 4


class WandB(Tracker):
    """Its files are in ``wandb/`` of the run's folder; offline, one more there each time that the run is continued."""

    PACKAGE = "wandb"

    def __init__(self, subject: Subject, id: str | None):
        import wandb

        self.wandb, self.folder = wandb, subject.folder
        earlier = subject.folder.glob(f"wandb/*run-*-{id}/*.wandb")
        self.offline_step = max((step for file in earlier for step in steps_of(file)), default=0)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=subject.folder,
            id=id,
            name=subject.name,
            group=subject.group,
            resume="allow",
            reinit="create_new",  # several students train in one process
            settings=wandb.Settings(console="off", quiet=True, finish_timeout=600),
        )
        self.id = self.run.id
        config = {**subject.options, "environment": dict(subject.environment)}
        self.run.config.update(config, allow_val_change=True)

    def last_step(self) -> int:
        if self.run.offline:
            return self.offline_step
        return self.run.starting_step - 1 if self.run.resumed else 0

    def log(self, step: int, values: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        images = {name: self.wandb.Image(picture) for name, picture in pictures.items()}
        self.run.log({**values, **images}, step=step, commit=True)

    def report(self, step: int, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        self.run.summary.update(summary)
        for file in files:
            self.run.save(file, base_path=self.folder, policy="now")

    def close(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)


def records_of(file: Path) -> Iterator:
    """The messages of a .wandb file: a log in LevelDB's format, after 7 bytes; a kill may cut the last one off."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, message = file.read_bytes(), HEADER, b""
    while place + HEADER <= len(data):
        left = -place % BLOCK
        if left < HEADER and left:  # no piece begins at the end of a block
            place += left
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        place += HEADER
        message += data[place : place + size]
        place += size
        if kind in (WHOLE, LAST) and place <= len(data):
            yield Record.FromString(message)
            message = b""


def steps_of(file: Path) -> list[int]:
    """The steps of the rows that a .wandb file holds."""
    items = (item for record in records_of(file) for item in record.history.item)
    return [int(item.value_json) for item in items if "_step" in (item.key, *item.nested_key)]
