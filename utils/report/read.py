"""The folder of a run as data."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segdistill.libs.files import sha256_of
from segdistill.utils.tasks import Task, task_named


@dataclass
class FinishedRun:
    """The files of a run's folder.

    ``evaluation`` is None if eval.py has not seen the present checkpoint, ``teacher`` if the run has none.
    """

    folder: Path
    options: dict
    environment: dict
    metrics: list[dict]
    evaluation: dict | None
    teacher: dict | None

    @property
    def task(self) -> Task:
        return task_named(self.options)

    @property
    def checkpoint(self) -> Path:
        """The file that was evaluated."""
        return self.folder / Path(self.evaluation["checkpoint"]).name

    @property
    def terms(self) -> list[dict]:
        """The distillation terms with their settings; empty if the student learned alone."""
        return self.options.get("terms") or []

    @property
    def cost(self) -> dict[str, float]:
        """Medians over the rows: seconds of a ``step`` and of the ``teacher``, bytes ``saved``; {} if none were logged.

        The teacher of a student without terms takes 0 seconds.
        """
        names = ("step", "teacher", "saved")
        logged = {name: [row[f"cost/{name}"] for row in self.metrics if f"cost/{name}" in row] for name in names}
        cost = {name: statistics.median(values) for name, values in logged.items() if values}
        return {"teacher": 0.0} | cost if cost else {}

    @property
    def settings(self) -> dict:
        """The options that had an effect, flat: ``lr_g``, ``network_options.p``, ``terms.pi.weight``."""
        terms = {term["name"]: term for term in self.terms}
        return flat({key: value for key, value in self.options.items() if key != "continued"} | {"terms": terms})


def flat(options: Mapping, prefix: str = "") -> dict:
    """Nested mappings as "outer.inner"; without what had no effect: None, False, [] and {}."""
    entries = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            entries |= flat(value, f"{prefix}{key}.")
        elif not (value is None or value is False or value == []):  # 0 is a value
            entries[prefix + key] = value
    return entries


def read_run(folder: Path) -> FinishedRun:
    """Raises FileNotFoundError if the folder holds no run, else as ``read_metrics``."""
    for name in ("options.json", "environment.json", "metrics.jsonl"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {folder / name}: {folder} is not the folder of a run")
    return FinishedRun(
        folder,
        read_json(folder / "options.json"),
        read_json(folder / "environment.json"),
        read_metrics(folder),
        read_evaluation(folder),
        read_json(folder / "teacher.json"),
    )


def read_json(path: Path) -> dict | None:
    """The content of a file, None if there is none."""
    return json.loads(path.read_text()) if path.is_file() else None


def read_metrics(folder: Path) -> list[dict]:
    """The rows of metrics.jsonl, one a step, in the order of the steps.

    A continued run repeats steps: the last value counts. A killed one leaves half a row, which is passed over.

    Raises:
        FileNotFoundError: no metrics.jsonl in the folder.
        ValueError: a line before the last that is no row.
    """
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    rows = {}
    for number, line in enumerate(lines, 1):
        try:
            # The first row of a continued run may follow the half row on its line; rows are flat, so "{" begins one.
            row = json.loads(line[max(line.rfind("{"), 0) :])
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number} is no row of metrics: {line!r}") from error
        # A step with a validation has two rows, losses and scores.
        rows[row["step"]] = rows.get(row["step"], {}) | row
    return [rows[step] for step in sorted(rows)]


def read_evaluation(folder: Path) -> dict | None:
    """The content of evaluation.json; None if there is none, or if its checkpoint has changed since."""
    evaluation = read_json(folder / "evaluation.json")
    checkpoint = evaluated(folder, evaluation) if evaluation else None
    current = checkpoint and checkpoint.is_file() and sha256_of(checkpoint) == evaluation["sha256"]
    return evaluation if current else None


def evaluated(folder: Path, evaluation: Mapping) -> Path:
    """The checkpoint of an evaluation: beside it, for runs are moved, or where it was."""
    named = Path(evaluation["checkpoint"])
    return folder / named.name if (folder / named.name).is_file() else named
