"""Reads the folder of a run."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segdistill.libs.files import sha256_of
from segdistill.utils.files import REMEDY, Entries, read_entries, read_row
from segdistill.utils.tasks import Task, task_named

# The required entries, with their types.
OPTIONS = {"seed": int, "num_steps": int, "batch_size": int, "network": str, "dataset": str}
EVALUATION = {"checkpoint": str, "sha256": str, "dataset": str, "split": str, "protocol": dict}


@dataclass
class FinishedRun:
    """A finished run, read from its folder.

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
        """Medians over the rows: seconds of a ``step`` and of the ``teacher``, bytes ``saved``, share of the time
        ``waiting`` for data; {} if none were logged.

        The teacher of a student without terms takes 0 seconds.
        """
        names = ("step", "teacher", "saved", "waiting")
        logged = {name: [row[f"cost/{name}"] for row in self.metrics if f"cost/{name}" in row] for name in names}
        cost = {name: statistics.median(values) for name, values in logged.items() if values}
        return {"teacher": 0.0} | cost if cost else {}

    @property
    def seconds(self) -> float | None:
        """Training time of the steps that led to the result, the teacher's included; None if no costs were logged.

        Each row counts for the steps since the one before, so a run may go on elsewhere; without validation, saving,
        waiting for data, and steps that a kill undid.
        """
        total, before = 0.0, 0
        for row in self.metrics:
            if "cost/step" in row:
                total += (row["step"] - before) * (row["cost/step"] + row.get("cost/teacher", 0.0))
                before = row["step"]
        return total or None

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
    """Raises FileNotFoundError if the folder holds no run, ValueError for a damaged file; they name it."""
    for name in ("options.json", "environment.json", "metrics.jsonl"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {folder / name}: {folder} is not the folder of a run")
    return FinishedRun(
        folder,
        read_options(folder / "options.json"),
        read_entries(folder / "environment.json", {}),
        read_metrics(folder),
        read_evaluation(folder),
        read_entries(folder / "teacher.json", {"file": str}) if (folder / "teacher.json").is_file() else None,
    )


def read_options(file: Path) -> Entries:
    """options.json, as ``read_entries``."""
    options = read_entries(file, OPTIONS)
    terms = options.get("terms") or []
    if not (isinstance(terms, list) and all(isinstance(term, dict) and "name" in term for term in terms)):
        raise ValueError(f"{file}: terms is {terms!r:.80}, no list of terms with names: {REMEDY}")
    return options


def read_metrics(folder: Path) -> list[dict]:
    """The rows of metrics.jsonl, one a step, in the order of the steps.

    A continued run repeats steps: the last value counts. An incomplete last row of a killed run is ignored.

    Raises:
        FileNotFoundError: no metrics.jsonl in the folder.
        ValueError: a line before the last that is no row.
    """
    path = folder / "metrics.jsonl"
    lines = path.read_text(errors="replace").splitlines()
    rows = {}
    for number, line in enumerate(lines, 1):
        # The first row of a continued run may follow the half row on its line; rows are flat, so "{" begins one.
        row = read_row(line[max(line.rfind("{"), 0) :])
        if row is None:
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number} is no row of metrics: {line!r:.80}")
        # A step with a validation has two rows, losses and scores.
        rows[row["step"]] = rows.get(row["step"], {}) | row
    return [rows[step] for step in sorted(rows)]


def read_evaluation(folder: Path) -> dict | None:
    """The content of evaluation.json; None if there is none, or if its checkpoint has changed since."""
    if not (folder / "evaluation.json").is_file():
        return None
    evaluation = read_entries(folder / "evaluation.json", EVALUATION)
    checkpoint = evaluated(folder, evaluation)
    return evaluation if checkpoint.is_file() and sha256_of(checkpoint) == evaluation["sha256"] else None


def evaluated(folder: Path, evaluation: Mapping) -> Path:
    """The checkpoint of an evaluation: in the same folder, since runs are moved, or at its stored path."""
    named = Path(evaluation["checkpoint"])
    return folder / named.name if (folder / named.name).is_file() else named
