"""Runs that are followed in trackers: every row once, whatever is killed, fails or is resumed."""

import json
import sqlite3
import time
from importlib.util import find_spec

import pytest
from test_train import STEPS, arguments, rows_of, stop_before

import train
from segdistill.utils.options import parse_options
from segdistill.utils.trackers import TRACKERS, Tracker
from segdistill.utils.trackers.wandb import records_of, steps_of


class Memory(Tracker):
    """Keeps what it is told, by id; ``fails`` are the calls that fail."""

    PACKAGE = "json"
    runs, calls, fails = {}, 0, range(0)

    def __init__(self, subject, id):
        self.id = id or f"id{len(self.runs)}"
        self._call()
        self.run = self.runs.setdefault(self.id, {"rows": {}, "pictures": {}, "closed": []})
        self.run |= {"name": subject.name, "group": subject.group, "options": subject.options}

    def _call(self):
        Memory.calls += 1
        if Memory.calls in Memory.fails:
            raise ConnectionError("no route\nto host")

    def last_step(self):
        return max(self.run["rows"], default=0)

    def log(self, step, values, pictures):
        self._call()
        assert step not in self.run["rows"]
        self.run["rows"][step] = dict(values)
        self.run["pictures"] |= {step: list(pictures)} if pictures else {}

    def report(self, step, summary, files):
        self._call()
        self.run["report"] = (step, summary, [file.name for file in files])

    def close(self, finished):
        self.run["closed"].append(finished)


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.setitem(TRACKERS, "memory", Memory)
    for name, value in (("runs", {}), ("calls", 0), ("fails", range(0))):
        monkeypatch.setattr(Memory, name, value)
    return Memory


def expected(run):
    return {row.pop("step"): row for row in rows_of(run)}


def train_and_die(monkeypatch, step, words):
    with monkeypatch.context() as context:
        stop_before(context, step)
        with pytest.raises(MemoryError):
            train.main(words)


def test_students_are_tracked_runs_of_one_group(tiny, tmp_path, memory):
    train.main(arguments(tiny, tmp_path, "one", ["--pi"], "--also", "two=", "--track", "memory"))
    assert [run["name"] for run in memory.runs.values()] == ["one", "two"]
    for run in memory.runs.values():
        assert run["group"] == tmp_path.name
        assert run["rows"] == expected(tmp_path / run["name"])
        assert run["options"] == json.loads((tmp_path / run["name"] / "options.json").read_text())
        assert {step: len(names) for step, names in run["pictures"].items()} == {4: 2, 6: 2}
        best = max(row["val/mean_iou"] for row in run["rows"].values() if "val/mean_iou" in row)
        assert run["report"] == (STEPS, {"best/mean_iou": best}, ["report.md", "predictions.png"])
        assert run["closed"] == [True]


def test_a_resumed_run_continues_the_tracked_one(tiny, tmp_path, monkeypatch, memory):
    """The second time from a checkpoint that is older than the last row; the third time with more rows than before."""
    words = arguments(tiny, tmp_path, "run", [], "--resume", "--track", "memory", "--save-every", "2")
    train_and_die(monkeypatch, 4, words)
    assert list(memory.runs["id0"]["rows"]) == [1, 2, 3]
    train_and_die(monkeypatch, 5, [word for word in words if word not in ("--track", "memory")])
    train.main(words)
    assert list(memory.runs) == ["id0"]
    rows, kept = memory.runs["id0"]["rows"], expected(tmp_path / "run")
    assert list(rows) == list(kept) == list(range(1, STEPS + 1))
    assert [row["loss"] for row in rows.values()] == [row["loss"] for row in kept.values()]
    assert memory.runs["id0"]["closed"] == [False, True]


def test_a_tracker_that_fails_in_the_middle_does_not_end_the_training(tiny, tmp_path, memory, caplog):
    words = arguments(tiny, tmp_path, "run", [], "--resume", "--track", "memory")
    memory.fails = range(4, 100)
    assert train.main(words) == 0
    (warning,) = (message for message in caplog.messages if message.startswith("--track memory"))
    assert warning.startswith("--track memory: ConnectionError: no route;")
    assert list(memory.runs["id0"]["rows"]) == [1, 2]
    memory.fails = range(0)
    assert train.main(words) == 0  # nothing is left to train
    assert memory.runs["id0"]["rows"] == expected(tmp_path / "run")
    assert "report" in memory.runs["id0"]


def test_what_was_missed_is_sent_at_the_end(tiny, tmp_path, memory):
    memory.fails = range(4, 5)
    assert train.main(arguments(tiny, tmp_path, "run", [], "--track", "memory")) == 0
    assert memory.runs["id0"]["rows"] == expected(tmp_path / "run")


def test_a_tracker_that_cannot_begin_ends_a_new_run_alone(tiny, tmp_path, monkeypatch, memory, caplog):
    words = arguments(tiny, tmp_path, "run", [], "--resume", "--track", "memory", "--save-every", "1")
    memory.fails = range(1, 2)
    with pytest.raises(ValueError, match=r"^--track memory: ConnectionError: no route \(.*without --track\)$"):
        train.main(words)
    train_and_die(monkeypatch, 3, words)
    memory.fails = range(memory.calls + 1, memory.calls + 2)
    assert train.main(words) == 0
    assert "--track memory: ConnectionError" in caplog.text


def test_a_library_that_is_not_there_is_named_with_its_remedy(memory, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "track_of_nothing").mkdir()  # as the folder wandb/ that the library leaves behind
    for package in ("track_of_nothing", "not_there"):
        monkeypatch.setattr(Memory, "PACKAGE", package)
        with pytest.raises(SystemExit):
            parse_options(["--track", "memory"])
        assert f"needs {package}, which is not installed: pip install segdistill[memory]" in capsys.readouterr().err


def read_wandb(folder, _):
    """All fragments of the run, in the order in which ``wandb sync`` sends them."""
    rows, ids, options, files = [], set(), {}, set()
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        for record in records_of(path):
            if record.HasField("run"):
                ids.add((record.run.run_id, record.run.display_name, record.run.run_group))
            options |= {item.key: json.loads(item.value_json) for item in record.config.update}
            files |= {item.path for item in record.files.files}
            if record.HasField("history"):
                items = record.history.item
                row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
                rows.append((row["_step"], row))
    ((_, name, group),) = ids
    assert (name, group) == ("run", folder.parent.name)
    return [(step, row["loss"]) for step, row in rows], options, steps_with_pictures(rows), "report.md" in files


def wait_for_wandb(folder, step):
    """Its own process goes on writing for a moment after ``finish``."""
    files = list((folder / "wandb").glob("offline-run-*/*.wandb"))
    deadline = time.monotonic() + 60
    while files and step not in (held for file in files for held in steps_of(file)) and time.monotonic() < deadline:
        time.sleep(0.05)


def steps_with_pictures(rows):
    return {step for step, row in rows for key, x in row.items() if key.startswith("val/") and "image" in str(x)}


def read_mlflow(folder, home):
    from mlflow import MlflowClient

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("segdistill").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.tags["group"] == folder.parent.name
    images = [file.path for file in client.list_artifacts(run.info.run_id, "images") if file.path.endswith(".png")]
    options = {key: json.loads(value) for key, value in run.data.params.items()}
    rows = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "loss/total")]
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert "options.json" in names
    return rows, options, {int(name.split("+")[2]) for name in images}, "report.md" in names


def read_trackio(folder, home):
    with sqlite3.connect(home / "segdistill.db") as database:
        found = database.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
        ((name, config),) = database.execute("SELECT run_name, config FROM configs")
    assert name.startswith("run-")
    rows = [(step, json.loads(text)) for step, text in found]
    losses = [(step, row["loss"]) for step, row in rows if "loss" in row]
    return losses, json.loads(config), steps_with_pictures(rows), any("report.md" in row for _, row in rows)


REAL = {"wandb": read_wandb, "mlflow": read_mlflow, "trackio": read_trackio}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_library_holds_every_row_once_after_a_kill(tiny, tmp_path, monkeypatch, name):
    if not find_spec(TRACKERS[name].PACKAGE):
        pytest.skip(f"{name} is not installed")
    home = tmp_path / "home"
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(home))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(home))
    words = arguments(tiny, tmp_path, "run", [], "--resume", "--track", name, "--save-every", "2")
    train_and_die(monkeypatch, 4, words)
    wait_for_wandb(tmp_path / "run", 3)
    train.main(words)
    wait_for_wandb(tmp_path / "run", STEPS)
    rows, options, pictures, has_report = REAL[name](tmp_path / "run", home)
    assert rows == [(row["step"], pytest.approx(row["loss"])) for row in rows_of(tmp_path / "run")]
    assert options["num_steps"] == STEPS
    assert options["dataset"] == "camvid"
    assert pictures == {4, 6}
    assert has_report
