"""A run's folder: options, environment, metrics, TensorBoard events, checkpoints; and its tracker."""

import importlib.metadata
import json
import logging
import math
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from segdistill.dataset import SegmentationDataset
from segdistill.libs.files import replacing, sha256_of
from segdistill.libs.locks import lock
from segdistill.network.weights.checkpoint import atomic_save, not_finite
from segdistill.utils.distributed import any_process, of_first_process, rank
from segdistill.utils.files import REMEDY, append, keep_rows, read_entries, read_json, stamp, write_json
from segdistill.utils.learner import Learner
from segdistill.utils.options import BOOKKEEPING, Options, complete, plain
from segdistill.utils.state import check_fit, read_state, with_checksums
from segdistill.utils.tasks import Figure
from segdistill.utils.trackers import TRACKERS, Following, Subject

logger = logging.getLogger(__name__)
PANELS = "predictions.png"
OWN_FILES = (
    "options.json",
    "environment.json",
    "teacher.json",
    "metrics.jsonl",
    "track.json",
    "events.out.tfevents.*",
    "last.pth",
    PANELS,
)


class Run:
    """``<snapshot_dir>/<save_name>/``; only the first process reads and writes, and writes nothing before ``open``.

    Every process makes one at the same time, and calls its ``check_...`` in the same order.

    Raises:
        FileExistsError: the folder holds a run already and ``--resume`` was not given, or weights without a run.
        ValueError: ``--resume`` with options other than those the run was started with, or a last.pth that is ahead;
            or options or code other than the first process's.
    """

    def __init__(self, options: Options):
        self.folder = options.run.folder
        self.last = self.folder / "last.pth"
        self.best = self.folder / "best.pth"
        self.options, self.track = plain(options), options.run.track
        self.writes = rank() == 0
        self.teacher = None  # the content of teacher.json
        self.pictures: dict[str, np.ndarray] = {}  # of the step whose row comes next
        self.lock, self.following, self.finished = None, None, False
        # Of a run to be continued: what last.pth holds, its step, and what it was made of.
        self.state, self.start, self.before = None, None, {}
        # Kept in last.pth: what the run is made of.
        self.origin = {"options": experiment(self.options), "data": None, "teacher": None, "class_map": None}
        self.origin |= {"classes": None, "validation": None, "class_weights": None, "code": None, "cached": None}
        self._check_origin("options", self.origin["options"], "these are not the options")
        if self.writes:
            self._look(options)
        # The folder may lie on a disk that the other processes do not see.
        self.state, self.start, self.before = of_first_process((self.state, self.start, self.before))
        cached = options.teacher.teacher_cache is not None
        self._check_origin("cached", cached, "these are not the teacher's outputs (--teacher-cache rounds them)")
        self._check_origin("code", code_of(options), "this is not the code of --loss and --network FILE.py")

    def _look(self, options: Options) -> None:
        """Read what the folder holds of a run to be continued, or refuse to overwrite it."""
        self.found = stamp(self.last)
        if self.found:
            state = read_state(self.last)
            if options.run.resume:
                self._continue_from(state["step"])
                if experiment(complete(state["options"])) != self.origin["options"]:
                    raise ValueError(f"{self.last} is of another run, with other options: {REMEDY}")
                if state["best"] is not None and not self.best.exists():
                    raise ValueError(f"{self.best} is missing: {REMEDY}")
                self.state, self.start = state, state["step"]
                self.before = {key: state[key] for key in self.origin if key in state}
            elif state["step"] > 0:
                raise FileExistsError(
                    f"{self.folder} holds a run already: --resume continues it, --save-name starts another"
                )
        elif self.best.exists():
            raise FileExistsError(
                f"{self.best} has no last.pth beside it, so its run cannot be continued, and a new one would "
                "overwrite it: --save-name starts another"
            )

    def _continue_from(self, step: int) -> None:
        """Refuse to continue with other options; note it if there are more steps to do now."""
        path = self.folder / "options.json"
        try:
            before = complete(read_json(path))
        except (LookupError, TypeError) as error:
            raise ValueError(f"{path} does not hold the options of a run: {REMEDY}") from error
        old, new = experiment(before), experiment(self.options)
        changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        if changed:
            raise ValueError(
                f"{self.folder} was started with other options: "
                + ", ".join(f"{key} {old.get(key)!r}, now {new.get(key)!r}" for key in changed)
            )
        steps = self.options["num_steps"]
        if step > steps:
            raise ValueError(f"{self.last} is at step {step}, beyond --num-steps {steps}: give at least that many")
        if before["num_steps"] != steps:
            self.options["continued"] = [*before.get("continued", []), {"step": step, "num_steps": steps}]
        elif "continued" in before:
            self.options["continued"] = before["continued"]

    def check_teacher(self, sha256: str, class_map: Sequence[int | None] | None) -> None:
        """Raise ValueError if this is a run to be continued that was started with another teacher or class map."""
        self._check_origin("teacher", sha256, "this is not the teacher")
        self._check_origin("class_map", class_map and list(class_map), "this is not the class map")

    def check_data(self, digest: str, dataset: SegmentationDataset) -> None:
        """Raise ValueError if this is a run to be continued that was started with other training images or labels, or
        with other meanings of label values; ``digest`` is of the images and labels."""
        self._check_origin("data", digest, "these are not the training images and labels")
        meaning = f"{dataset.CLASSES} {dataset.ID_TO_TRAIN_ID}" if dataset.TRUTH == "labels" else None
        self._check_origin("classes", meaning, "these are not the classes")

    def check_validation(self, digest: str) -> None:
        """Raise ValueError if this is a run to be continued whose best score is of other images or labels."""
        self._check_origin("validation", digest, "these are not the validation images and labels")

    def check_weights(self, weights: Sequence[float]) -> None:
        """Raise ValueError if this is a run to be continued that was started with other weights of the classes."""
        self._check_origin("class_weights", list(weights), "these are not the class weights")

    def _check_origin(self, key: str, value: object, refusal: str) -> None:
        self.origin[key] = value
        if self.before.get(key, value) != value:
            raise ValueError(f"{refusal} that {self.folder} was started with: --save-name starts another run")
        if of_first_process(value) != value:
            raise ValueError(f"{refusal} that the first process has: every machine needs the same")

    def restore(self, learner: Learner) -> tuple[int, float | None]:
        """Load the state that the run is continued from; returns its step and best score. Before ``open``.

        Raises:
            ValueError: it is not of these networks and this optimizer.
        """
        state, self.state = self.state, None
        check_fit(state, learner.state_dict(), self.last)
        learner.load_state_dict(state)
        return state["step"], state["best"]

    def open(self) -> None:
        """Lock the folder and begin to write; remove files of a run that has no checkpoint.

        Raises:
            BlockingIOError: another process is writing there, or was since this run was made.
            ValueError: the tracker of a new run cannot begin.
        """
        if not self.writes:
            return
        from segdistill.utils.trackers.tensorboard import EventFile  # slow to import

        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = (self.folder / ".lock").open("w")
        try:
            lock(self.lock, wait=False)
        except BlockingIOError:
            raise BlockingIOError(f"another process is training in {self.folder}: --save-name starts another") from None
        # Loader processes outlive a killed trainer by seconds and would hold its lock.
        os.register_at_fork(after_in_child=self.lock.close)
        if stamp(self.last) != self.found:
            raise BlockingIOError(f"another process has just trained in {self.folder}: start again")
        for path in self.folder.glob(".*.tmp"):  # half-written files of a killed run
            path.unlink()
        if self.start is not None:
            keep_rows(self.folder / "metrics.jsonl", self.start)
        else:
            for pattern in OWN_FILES:
                for path in self.folder.glob(pattern):
                    path.unlink()
        write_json(self.folder / "options.json", self.options)
        environment = self._environment()
        write_json(self.folder / "environment.json", environment)
        if self.teacher:
            write_json(self.folder / "teacher.json", self.teacher)
        self.events = EventFile(self.folder, purge_step=(self.start or 0) + 1)
        if self.track:
            place = self.folder.resolve()
            subject = Subject(place, place.name, place.parent.name, self.options, environment)
            self.following = Following(self.track, TRACKERS[self.track], subject, continued=self.start is not None)

    def _environment(self) -> dict:
        """The environment; ``processes_before``: the numbers of processes of earlier stages, up to which step each."""
        now, path = environment(), self.folder / "environment.json"
        if self.start is None or not path.is_file():
            return now
        earlier = read_entries(path, {"processes": int})
        stages = [*earlier.get("processes_before", []), {"step": self.start, "processes": earlier["processes"]}]
        stages = {stage["step"]: stage for stage in reversed(stages)}  # of two to one step, the second did none
        if stages[self.start]["processes"] == now["processes"]:
            del stages[self.start]
        return now | ({"processes_before": sorted(stages.values(), key=lambda stage: stage["step"])} if stages else {})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a row to metrics.jsonl, TensorBoard and the tracker, without values that are not finite (float16
        overflow); the pictures shown since the last row go with it.

        Raises:
            OSError: it could not be written; names the file.
        """
        if not self.writes:
            return
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        row = json.dumps({"step": step, **values}, allow_nan=False) + "\n"
        append(self.folder / "metrics.jsonl", row.encode())
        pictures, self.pictures = self.pictures, {}
        self.events.log(step, values, pictures)
        if self.following:
            self.following.log(step, values, pictures)

    def show(self, name: str, panel: np.ndarray) -> None:
        """Keep a picture (H, W, 3) uint8 for the row of this step."""
        self.pictures[name] = panel

    def save_panels(self, panels: Sequence[Sequence[np.ndarray]]) -> None:
        """Rows of pictures (H, W, 3) uint8 to predictions.png, in columns of one width."""
        if not self.writes:
            return
        width = max(row[0].shape[1] for row in panels)
        rows = [[np.pad(cell, ((0, 0), (0, width - cell.shape[1]), (0, 0))) for cell in row] for row in panels]
        rows = [np.concatenate(row, axis=1) for row in rows]
        with replacing(self.folder / PANELS) as file:
            Image.fromarray(np.concatenate(rows)).save(file, format="png")

    def save_state(self, step: int, best: float | None, learner: Learner) -> None:
        """Write last.pth. Raises: as ``save``."""
        if self.writes:
            self.save(self.last, with_checksums({"step": step, "best": best, **self.origin, **learner.state_dict()}))

    def save(self, path: Path, content: Mapping) -> None:
        """Write a checkpoint.

        Raises:
            FloatingPointError: something in it is not finite; the file is as it was.
            OSError: it could not be written; the file is as it was.
        """
        if not self.writes:
            return
        if places := not_finite(content):
            more = f" and {len(places) - 3} more" if len(places) > 3 else ""
            raise FloatingPointError(f"{', '.join(places[:3])}{more} not finite, so {path} is not written")
        atomic_save(content, path)

    def finish(self, step: int, summary: Mapping[str, float]) -> None:
        """Write report.md at the end of the training; the tracker has it too, with figures of the whole run."""
        self.finished = True
        if not self.writes:
            return
        from segdistill.utils.report import write_run_report  # draws pictures: slow to import

        write_run_report(self.folder)
        if self.following:
            files = [self.folder / name for name in ("report.md", "curves.png", PANELS)]
            self.following.report(step, summary, [file.resolve() for file in files if file.exists()])

    def close(self) -> None:
        if self.following:
            self.following.close(self.finished)
        if self.lock:
            self.lock.close()


def code_of(options: Options) -> list[str]:
    """SHA-256 of the files that --network, --teacher-network and --loss name as FILE.py:CLASS."""
    names = [
        options.student.network,
        options.teacher.teacher_network,
        *(term.method for term in options.objective.terms),
    ]
    return [sha256_of(name.rpartition(":")[0]) for name in names if name and ".py:" in name]


def experiment(options: Mapping) -> dict:
    """The options that may not change when a run is continued."""
    return {key: value for key, value in options.items() if key not in BOOKKEEPING | {"num_steps", "continued"}}


class StopSignal:
    """Stores Ctrl-C, SIGTERM and SIGHUP as a number, checked between steps; a second Ctrl-C stops at once."""

    def __init__(self):
        self.received = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame) -> None:
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def agreed(self) -> bool:
        """Whether any process has received a signal. All processes call it at the same step, so that all stop there."""
        stop = any_process(self.received > 0)
        if stop and not self.received:
            self.received = signal.SIGTERM
        return stop


class Progress:
    """A progress bar on a terminal, else a log line at intervals: step, loss, the task's primary figure, time left."""

    SECONDS = 30  # between two lines

    def __init__(self, num_steps: int, start: int, figure: Figure):
        self.num_steps, self.start, self.figure, self.scores = num_steps, start, figure, ""
        self.began = self.said = time.monotonic()
        self.bar = tqdm(
            total=num_steps, initial=start, unit="step", disable=True if rank() else None, dynamic_ncols=True
        )

    def update(self, step: int, loss: float | None = None, scores: Mapping[str, float] | None = None) -> None:
        """Call at every step; ``loss`` and ``scores``, the figure of each student by name, where they are known."""
        self.bar.n = step
        if loss is None:
            return
        if scores:
            several = len(scores) > 1
            texts = [f"{name} " * several + self.figure.text(score) for name, score in scores.items()]
            self.scores = ", ".join(texts)
        words = {"loss": f"{loss:.3f}"}
        if self.scores:
            words[self.figure.name] = self.scores
        self.bar.set_postfix(words)
        if not self.bar.disable or rank():
            return
        now = time.monotonic()
        if now - self.said < self.SECONDS and not scores and step < self.num_steps:
            return
        self.said = now
        left = timedelta(seconds=round((now - self.began) / (step - self.start) * (self.num_steps - step)))
        figures = ", ".join(f"{name} {value}" for name, value in words.items())
        logger.info("step %d of %d: %s, %s left", step, self.num_steps, figures, left)

    def close(self) -> None:
        self.bar.close()


def environment() -> dict:
    """The environment that a run's numbers depend on besides its options."""
    git = None
    if shutil.which("git"):
        command = ["git", "describe", "--always", "--dirty"]
        folder = Path(__file__).parent
        git = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git": git or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
