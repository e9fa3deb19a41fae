"""Kills, signals, full disks, damaged files: no run is lost or mixed with another, and every error is one line."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from forks import ROOT, SEED, Job, chance
from PIL import Image
from test_train import STEPS, arguments, assert_same, last, rows_of, stop_before

import train
from segdistill.utils.files import stamp
from segdistill.utils.options import parse_options
from segdistill.utils.run import Run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("narrow_critic")]

KILLS = int(os.environ.get("SEGDISTILL_KILLS", "4"))
TERMS = ["--pi", "--pa", "--ho", "--cwd", "--fitnet"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SECONDS = 180  # in which a job has to end; it takes a few, and more where others run


def wait_until(condition, job, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        if job.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def count_rows(run):
    path = run / "metrics.jsonl"
    return path.read_text().count('"loss"') if path.exists() else 0


class Moment:
    """An instant of a run that is told from outside; made just before the run starts."""

    def __init__(self, name, run, log):
        self.name, self.run, self.log = name, run, log
        self.path = run / ("options.json" if name == "opening" else "metrics.jsonl")
        self.before, self.rows = stamp(self.path), count_rows(run)
        self.more = chance.randint(1, 2)

    def reached(self):
        if self.name == "verifying":
            return "entries used" in self.log.read_text()
        if self.name == "saving":
            return any(self.run.glob(".last.pth.*.tmp"))
        if self.name == "opening":
            return stamp(self.path) not in (None, self.before)
        if self.name == "validating":  # the row of its step is written just before
            return count_rows(self.run) > self.rows and count_rows(self.run) % 4 == 0
        if self.name == "reporting":
            return (self.run / "curves.png").exists()
        return count_rows(self.run) >= self.rows + self.more

    def wait(self, job):
        assert wait_until(self.reached, job), f"SEGDISTILL_SEED={SEED}, {self.name}: {self.log.read_text()}"
        time.sleep(chance.uniform(0, 0.02 if self.name in ("opening", "saving") else 0.1))


def assert_equal_runs(actual, expected):
    """The same checkpoints, to the bit; the same rows, each once; nothing half-written left."""
    for name in ("last.pth", "best.pth"):
        assert_same(*(torch.load(run / name, weights_only=True) for run in (actual, expected)), name)
    rows, others = (
        [{key: x for key, x in row.items() if not key.startswith(("images_per", "cost/"))} for row in rows_of(run)]
        for run in (actual, expected)
    )
    assert [row["step"] for row in rows] == list(range(1, len(others) + 1))
    assert rows == others
    assert not list(actual.glob(".*.tmp"))


def test_no_kill_loses_or_changes_anything(tiny, tmp_path):
    def words(name, *more):
        counts = ["--num-steps", str(12 + 3 * KILLS), "--val-every", "5", "--save-every", "1", "--num-workers", "1"]
        mixed = ["--num-labels", "2", "--unlabelled-share", "0.5", "--batch-size", "4", "--mix", "classmix"]
        step = ["--optimizer", "adamw", "--schedule", "cosine", "--warmup", "3", "--ema", "0.9", "--clip-norm", "1"]
        return arguments(tiny, tmp_path, name, TERMS, *counts, *mixed, *step, *more)

    run, log = tmp_path / "killed", tmp_path / "log"
    with Job(words("whole"), tmp_path / "whole.log") as whole:
        for number in range(KILLS):
            # The first ones before the first checkpoint, or about then.
            moment = Moment("opening" if number < 3 else ("saving", "training")[number % 2], run, log)
            with Job(words("killed", "--resume"), log) as job:
                moment.wait(job)
                assert job.poll() is None, log.read_text()
                job.kill()
                job.wait()
        with Job(words("killed", "--resume"), log) as job:
            assert job.wait() == 0, f"SEGDISTILL_SEED={SEED}: {log.read_text()}"
        assert whole.wait() == 0
    assert_equal_runs(run, tmp_path / "whole")


FAULTS = [
    ("verifying", "torchrun", signal.SIGTERM),
    ("opening", "torchrun", signal.SIGTERM),
    ("saving", "torchrun", signal.SIGTERM),
    ("training", 1, signal.SIGTERM),
    ("validating", "torchrun", signal.SIGTERM),
    ("training", 0, signal.SIGKILL),
    ("training", "torchrun", signal.SIGINT),
    ("reporting", "torchrun", signal.SIGTERM),
]


def test_two_processes_survive_whatever_is_sent_to_them(tiny, tmp_path):
    def words(name, *more):
        counts = ["--num-steps", "24", "--val-every", "4", "--save-every", "1", "--num-workers", "1"]
        return arguments(tiny, tmp_path, name, TERMS, *counts, "--device", "cpu", *more)

    run, log = tmp_path / "faulty", tmp_path / "log"
    for name, target, number in FAULTS:
        fault = f"SEGDISTILL_SEED={SEED}: {number.name} to {target} while {name}"
        moment = Moment(name, run, log)
        with Job(words("faulty", "--resume"), log, ranks=2) as job:
            moment.wait(job)
            ranks = [job.rank(number) for number in (0, 1)]
            os.kill(job.pid if target == "torchrun" else ranks[target], number)
            assert job.wait() != 0, fault
        assert not [pid for pid in ranks if Path(f"/proc/{pid}").exists()], fault
        # A signal that can be answered is: the step is saved.
        if number != signal.SIGKILL and name != "reporting":
            assert "stopped by a signal" in log.read_text(), f"{fault}: {log.read_text()}"
            assert last(tmp_path, "faulty")["step"] == rows_of(run)[-1]["step"], fault
    for name in ("faulty", "whole"):
        with Job(words(name, "--resume"), log, ranks=2) as job:
            assert job.wait() == 0, log.read_text()
    assert_equal_runs(run, tmp_path / "whole")


@pytest.fixture
def bad_label(tiny, tmp_path):
    """A data set of which one training label, not the first, holds a class that does not exist."""
    shutil.copytree(tiny, tmp_path / "bad")
    Image.new("L", (64, 64), 77).save(tmp_path / "bad/camvid/trainannot/3.png")
    return tmp_path / "bad"


def assert_one_line(error, pattern):
    """One error, at the end, without a traceback."""
    assert "Traceback" not in error
    assert [line for line in error.splitlines() if "error:" in line] == error.splitlines()[-1:], error
    assert re.search(pattern, error.splitlines()[-1]), error


def test_a_rank_that_fails_ends_the_job(bad_label, tmp_path):
    command = [sys.executable, *TORCHRUN, "train.py", *arguments(bad_label, tmp_path, "run", TERMS, "--device", "cpu")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert re.search(r"^train\.py: error: \S*3\.png holds values \[77\]", done.stderr, re.M)


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """A run of STEPS steps, ``whole``, and the same one killed after step 3, ``part``."""
    folder = tmp_path_factory.mktemp("runs")
    train.main(arguments(tiny, folder, "whole", TERMS, "--save-every", "1"))
    with pytest.MonkeyPatch.context() as context:
        stop_before(context, 4)
        with pytest.raises(MemoryError):
            train.main(arguments(tiny, folder, "part", TERMS, "--save-every", "1"))
    return folder


# The sizes that files may have on the full disk, and the first that is larger; None: just more than options.json.
LIMITS = {
    2_000_000: "last.pth",
    300_000: "best.pth",
    15_000: r"(predictions.png|events\S+)",
    None: r"(metrics.jsonl|predictions.png|events\S+)",
    1_000: "metrics.jsonl",
}


@pytest.mark.parametrize("limit", LIMITS, ids=LIMITS.values())
def test_a_full_disk_costs_nothing_but_time(tiny, runs, tmp_path, limit):
    run = shutil.copytree(runs / "part", tmp_path / "run")
    before = (run / "last.pth").read_bytes()
    command = arguments(tiny, tmp_path, "run", TERMS, "--save-every", "1", "--resume")
    size = limit or (run / "options.json").stat().st_size + 50
    with Job(command, tmp_path / "log", limit=size) as job:
        assert job.wait() == 1
    assert_one_line((tmp_path / "log").read_text(), rf"could not write \S*/{LIMITS[limit]} \(File too large\)")
    assert (run / "last.pth").read_bytes() == before
    assert not list(run.glob(".*.tmp"))
    assert train.main(command) == 0
    assert_equal_runs(run, runs / "whole")


@pytest.mark.parametrize(("limit", "file"), [(1_000, "options.json"), (100_000, "last.pth")])
def test_a_run_that_never_had_room_starts_anew(tiny, runs, tmp_path, limit, file):
    command = arguments(tiny, tmp_path, "run", TERMS, "--save-every", "1", "--resume")
    with Job(command, tmp_path / "log", limit=limit) as job:
        assert job.wait() == 1
    assert_one_line((tmp_path / "log").read_text(), rf"could not write \S*/{file} \(.+\)")
    assert not list((tmp_path / "run").glob(".*.tmp"))
    assert not (tmp_path / "run/last.pth").exists()
    assert train.main(command) == 0
    assert_equal_runs(tmp_path / "run", runs / "whole")


DAMAGES = {
    "cut": ("last.pth", lambda path: os.truncate(path, path.stat().st_size // 2)),
    "garbage": ("last.pth", lambda path: path.write_bytes(random.Random(0).randbytes(5000))),
    "empty": ("last.pth", lambda path: path.write_bytes(b"")),
    "weights": ("last.pth", lambda path: shutil.copy(path.with_name("best.pth"), path)),
    "no-options": ("options.json", Path.unlink),
    "not-json": ("options.json", lambda path: path.write_text('{"dataset": "cam')),
    "other-json": ("options.json", lambda path: path.write_text("[]")),
    "bytes": ("options.json", lambda path: path.write_bytes(b"\xff\xfe")),
    "no-best": ("best.pth", Path.unlink),
}


@pytest.mark.parametrize(("file", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_run_is_named_and_left_alone(tiny, runs, tmp_path, file, damage):
    run = shutil.copytree(runs / "whole", tmp_path / "run")
    damage(run / file)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(ValueError, match=rf"\A\S*/{file} .*restore it from a copy.*--save-name\Z"):
        train.main(arguments(tiny, tmp_path, "run", TERMS, "--save-every", "1", "--resume"))
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_the_state_of_a_run_of_another_seed_is_refused(tiny, runs, tmp_path):
    run = shutil.copytree(runs / "whole", tmp_path / "run")
    content = json.loads((run / "options.json").read_text())
    (run / "options.json").write_text(json.dumps(content | {"seed": 7}))
    with pytest.raises(ValueError, match=r"last\.pth is of another run, with other options: .*--save-name\Z"):
        train.main(arguments(tiny, tmp_path, "run", TERMS, "--save-every", "1", "--resume", "--seed", "7"))


def test_what_a_user_can_mend_is_one_line(tiny, bad_label, runs, tmp_path):
    (tmp_path / "empty").mkdir()
    shutil.copytree(tiny, tmp_path / "val")
    Image.new("L", (64, 64), 77).save(tmp_path / "val/camvid/valannot/1.png")
    shutil.copytree(runs / "part", tmp_path / "garbage")
    (tmp_path / "garbage/last.pth").write_bytes(b"hello" * 1000)
    many = ["--num-workers", "2"]

    def command(number, data, *more):
        return arguments(data, tmp_path, f"run{number}", [], *more)

    cases = [
        (2, r"--lr-g: expected a number", command(0, tiny, "--lr-g", "fast")),
        (2, r"--T_ckpt_path: no file nowhere\.pth", command(1, tiny, "--pi", "--T_ckpt_path", "nowhere.pth")),
        (2, r"--data-dir: no folder nowhere", command(2, tiny, "--data-dir", "nowhere")),
        (1, r"no images|no folder", command(3, tiny, "--data-dir", str(tmp_path / "empty"))),
        (1, r"trainannot/3\.png holds values \[77\]", command(4, bad_label, *many)),
        (1, r"valannot/1\.png holds values \[77\]", command(5, tmp_path / "val", *many)),
        (1, r"--device nonsense: expected cpu", command(6, tiny, "--device", "nonsense")),
        (1, r"--device cuda:99: .* GPUs", command(7, tiny, "--device", "cuda:99")),
        (1, r"garbage/last\.pth cannot be read", [*command(8, tiny), "--save-name", "garbage", "--resume"]),
    ]
    with ExitStack() as stack:
        jobs = [stack.enter_context(Job(words, tmp_path / f"{number}.log")) for number, (*_, words) in enumerate(cases)]
        codes = [job.wait() for job in jobs]
    assert codes == [code for code, *_ in cases]
    for number, (_, pattern, _) in enumerate(cases):
        assert_one_line((tmp_path / f"{number}.log").read_text(), pattern)


def test_of_two_runs_started_together_one_works(tiny, tmp_path):
    command, alone = (arguments(tiny, tmp_path, name, TERMS, "--save-every", "1") for name in ("run", "alone"))
    logs = [tmp_path / "0.log", tmp_path / "1.log"]
    with Job(command, logs[0]) as first, Job(command, logs[1]) as second:
        codes = [first.wait(), second.wait()]
    assert sorted(codes) == [0, 1], [log.read_text() for log in logs]
    assert_one_line(logs[codes.index(1)].read_text(), r"another process is training|another process has just trained")
    with Job(alone, tmp_path / "alone.log") as job:
        assert job.wait() == 0
    assert_equal_runs(tmp_path / "run", tmp_path / "alone")


def test_a_run_that_another_one_overtook_while_it_started_is_refused(tiny, tmp_path):
    command = arguments(tiny, tmp_path, "run", [], "--num-steps", "2")
    slow = Run(parse_options(command))
    train.main(command)
    before = (tmp_path / "run/last.pth").read_bytes()
    with pytest.raises(BlockingIOError, match="another process has just trained"):
        slow.open()
    slow.close()
    assert (tmp_path / "run/last.pth").read_bytes() == before
    assert count_rows(tmp_path / "run") == 2 < STEPS
