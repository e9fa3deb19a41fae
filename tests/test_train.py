"""The trainer: what it writes, that it resumes to the bit, and that nothing is lost when things go wrong."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train
from segdistill.utils.checkpoint import load_network

ROOT = Path(__file__).parents[1]
STEPS = 6
TERMS = {
    "alone": [],
    "pi": ["--pi"],
    "pi+pa": ["--pi", "--pa", "--pa-feature", "layer3"],
    "ho-wgan": ["--ho"],
    "ho-hinge": ["--ho", "--adv-loss-type", "hinge", "--adv-optimizer", "adam"],
}
ALL_TERMS = ["--pi", "--pa", "--pa-feature", "layer3", "--ho"]


def arguments(tiny, folder, name, terms, *more):
    teacher = ["--T_ckpt_path", str(tiny / "teacher.pth")] if terms else []
    return [
        *("--dataset", "camvid", "--data-dir", str(tiny / "camvid"), "--input-size", "64,64"),
        *("--random-scale", "--random-mirror", "--batch-size", "2", "--num-steps", str(STEPS), "--num-workers", "0"),
        *("--network", "pspnet", "--backbone", "resnet18", "--log-every", "1", "--val-every", "4"),
        *("--snapshot-dir", str(folder), "--save-name", name, *teacher, *terms, *more),
    ]


def last(folder, name):
    return torch.load(folder / name / "last.pth", weights_only=True)


def assert_same(actual, expected, path="last.pth"):
    """Equal to the bit, through nested containers."""
    assert type(actual) is type(expected), path
    if isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected), path
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys(), path
        for key in expected:
            assert_same(actual[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), path
        for index, (left, right) in enumerate(zip(actual, expected, strict=True)):
            assert_same(left, right, f"{path}/{index}")
    else:
        assert actual == expected, path


def stop_before(monkeypatch, step):
    """Make the trainer die, without warning, when it is about to do ``step``."""
    real_step = train.train_step

    def die(options, current, *rest):
        if current == step:
            raise MemoryError
        return real_step(options, current, *rest)

    monkeypatch.setattr(train, "train_step", die)


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_a_run_that_died_twice_ends_with_the_same_state(tiny, tmp_path, monkeypatch, terms):
    train.main(arguments(tiny, tmp_path, "whole", terms))
    for step in (3, 5):
        with monkeypatch.context() as context:
            stop_before(context, step)
            with pytest.raises(MemoryError):
                train.main(arguments(tiny, tmp_path, "parts", terms, "--save-every", "1", "--resume"))
    train.main(arguments(tiny, tmp_path, "parts", terms, "--save-every", "1", "--resume"))
    assert_same(last(tmp_path, "parts"), last(tmp_path, "whole"))


def test_loader_processes_do_not_change_the_run(tiny, tmp_path):
    train.main(arguments(tiny, tmp_path, "none", []))
    train.main(arguments(tiny, tmp_path, "two", [], "--num-workers", "2"))
    assert_same(last(tmp_path, "two"), last(tmp_path, "none"))


def start(tiny, folder, name, *more):
    command = [sys.executable, "train.py", *arguments(tiny, folder, name, ALL_TERMS, "--save-every", "1", *more)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for_step(folder, name, step):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (folder / name / "last.pth").exists() and last(folder, name)["step"] >= step:
            return
        time.sleep(0.02)
    raise TimeoutError(f"step {step} was not reached")


@pytest.mark.slow
def test_a_run_killed_at_a_random_moment_ends_with_the_same_weights(tiny, tmp_path):
    whole = start(tiny, tmp_path, "whole")
    assert whole.wait(300) == 0, whole.stderr.read()
    for _ in range(2):
        process = start(tiny, tmp_path, "killed", "--resume")
        wait_for_step(tmp_path, "killed", random.randint(1, STEPS - 2))
        time.sleep(random.uniform(0, 0.3))
        process.kill()
        process.wait()
    process = start(tiny, tmp_path, "killed", "--resume")
    assert process.wait(300) == 0, process.stderr.read()
    assert_same(last(tmp_path, "killed"), last(tmp_path, "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_it_interrupts(tiny, tmp_path, number):
    process = start(tiny, tmp_path, "run", "--num-steps", "500", "--save-every", "1000", "--num-workers", "1")
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        time.sleep(0.05)
    os.kill(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number, error
    assert last(tmp_path, "run")["step"] >= 2
    assert "--resume" in error


def test_a_run_leaves_what_it_takes_to_read_it(tiny, tmp_path):
    train.main(arguments(tiny, tmp_path, "run", ["--pi"]))
    run = tmp_path / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if "val/mean_iou" in row] == [4, 6]
    assert {"loss/cross_entropy", "loss/pixel_wise", "lr", "images_per_second"} <= rows[0].keys()
    assert json.loads((run / "options.json").read_text())["lambda_pi"] == 10.0
    assert json.loads((run / "environment.json").read_text())["torch"] == torch.__version__
    assert json.loads((run / "teacher.json").read_text())["mean_iou"] == 1.0
    assert list(run.glob("events.out.tfevents.*"))
    assert (run / "report.md").read_text()
    network, report = load_network(run / "best.pth")
    assert (network.num_classes, report.family) == (11, "segdistill")
    assert not any("discriminator" in key or "teacher" in key for key in network.state_dict())


def test_the_total_is_the_weighted_sum_of_the_terms(tiny, tmp_path):
    train.main(arguments(tiny, tmp_path, "run", ["--pi", "--lambda-pi", "3", "--pa", "--pa-feature", "layer3"]))
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    expected = row["loss/cross_entropy"] + 3 * row["loss/pixel_wise"] + 0.5 * row["loss/pair_wise"]
    assert row["loss"] == pytest.approx(expected, rel=1e-5)


def test_losses_that_are_not_finite_stop_the_run_and_keep_the_checkpoint(tiny, tmp_path, monkeypatch):
    real_step = train.train_step

    def explode(options, step, *rest):
        terms = real_step(options, step, *rest)
        return {**terms, "loss/pixel_wise": terms["loss"] * float("nan")} if step == 4 else terms

    monkeypatch.setattr(train, "train_step", explode)
    with pytest.raises(FloatingPointError, match=r"step 4: loss/pixel_wise"):
        train.main(arguments(tiny, tmp_path, "run", ["--pi"], "--save-every", "1"))
    assert last(tmp_path, "run")["step"] == 3


def test_weights_that_are_not_finite_are_not_saved(tiny, tmp_path, monkeypatch):
    real_step = train.train_step

    def corrupt(options, step, factor, model, *rest):
        terms = real_step(options, step, factor, model, *rest)
        if step == 3:
            torch.nn.init.constant_(model.head.bias, float("inf"))
        return terms

    monkeypatch.setattr(train, "train_step", corrupt)
    with pytest.raises(FloatingPointError, match=r"step 3: weight head\.bias"):
        train.main(arguments(tiny, tmp_path, "run", [], "--save-every", "1"))
    assert last(tmp_path, "run")["step"] == 2


def test_a_finished_run_is_not_overwritten_and_its_options_do_not_change_silently(tiny, tmp_path):
    train.main(arguments(tiny, tmp_path, "run", []))
    with pytest.raises(FileExistsError, match="--resume"):
        train.main(arguments(tiny, tmp_path, "run", []))
    with pytest.raises(ValueError, match=r"lr_g 0\.01, now 0\.5"):
        train.main(arguments(tiny, tmp_path, "run", [], "--resume", "--lr-g", "0.5"))
    assert train.main(arguments(tiny, tmp_path, "run", [], "--resume")) == 0


def test_a_run_is_not_continued_with_another_teacher(tiny, tmp_path):
    teacher = tmp_path / "teacher.pth"
    shutil.copy(tiny / "teacher.pth", teacher)
    command = arguments(tiny, tmp_path, "run", [], "--pi", "--T_ckpt_path", str(teacher), "--resume")
    train.main(command)
    content = torch.load(teacher, weights_only=True)
    torch.save({**content, "note": "another file"}, teacher)
    with pytest.raises(ValueError, match="not the teacher"):
        train.main(command)


def test_a_missing_teacher_stops_the_run_before_a_step(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        train.main(arguments(tiny, tmp_path, "run", [], "--pi", "--T_ckpt_path", str(tmp_path / "none.pth")))
    assert not (tmp_path / "run" / "last.pth").exists()
