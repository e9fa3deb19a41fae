"""A run's folder: options, environment, metrics, TensorBoard events, checkpoints."""

import argparse
import json
import platform
import signal
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch.utils.tensorboard import SummaryWriter

from segdistill.utils.checkpoint import atomic_save, read_file
from segdistill.utils.distributed import rank

# Options that may change when a run is continued: they do not touch its numbers.
FREE_ON_RESUME = {"resume", "num_workers", "preload", "save_every", "log_every", "device", "snapshot_dir"}


class Run:
    """``<snapshot_dir>/<save_name>/``; only the first process writes.

    Raises:
        FileExistsError: the folder holds a run already and ``--resume`` was not given.
        ValueError: ``--resume`` with options that differ from those the run was started with.
    """

    def __init__(self, options: argparse.Namespace):
        self.folder = options.snapshot_dir / options.save_name
        self.last = self.folder / "last.pth"
        self.best = self.folder / "best.pth"
        self.options = jsonable(vars(options))
        self.writes = rank() == 0
        if self.last.exists():
            if not options.resume:
                raise FileExistsError(
                    f"{self.folder} holds a run already: --resume continues it, --save-name starts another"
                )
            self._check_options()
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "options.json", self.options)
            write_json(self.folder / "environment.json", environment())
            self.metrics = (self.folder / "metrics.jsonl").open("a")
            self.board = SummaryWriter(str(self.folder))

    def _check_options(self) -> None:
        before = json.loads((self.folder / "options.json").read_text())
        keys = (before.keys() | self.options.keys()) - FREE_ON_RESUME
        changed = sorted(key for key in keys if before.get(key) != self.options.get(key))
        if changed:
            raise ValueError(
                f"{self.folder} was started with other options: "
                + ", ".join(f"{key} {before.get(key)!r}, now {self.options.get(key)!r}" for key in changed)
            )

    def restore(self) -> dict | None:
        """The content of last.pth, or None for a new run."""
        return dict(read_file(self.last)) if self.last.exists() else None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a row to metrics.jsonl and to TensorBoard."""
        if not self.writes:
            return
        self.metrics.write(json.dumps({"step": step, **values}) + "\n")
        self.metrics.flush()
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def show(self, step: int, name: str, panel: np.ndarray) -> None:
        """A picture (H, W, 3) uint8 to TensorBoard."""
        if self.writes:
            self.board.add_image(name, panel, step, dataformats="HWC")

    def save(self, path: Path, content: dict) -> None:
        if self.writes:
            atomic_save(content, path)

    def close(self) -> None:
        if self.writes:
            self.metrics.close()
            self.board.close()


class StopSignal:
    """Turns Ctrl-C and SIGTERM into a number to look at between two steps; a second Ctrl-C stops at once."""

    def __init__(self):
        self.received = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number


def environment() -> dict:
    """What the run's numbers depend on besides its options."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git": git.stdout.strip() or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def jsonable(value):
    """The same content as JSON would give back."""
    return json.loads(json.dumps(value, default=str))


def write_json(path: Path, content: dict) -> None:
    """Write by rename, so that a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)
