"""Two machines, which are namespaces here: they train as one, a lost one ends the job, a restart loses nothing."""

import os
import re
import shutil
import signal
import time
from contextlib import ExitStack

import pytest
import torch
from forks import SEED, chance
from hosts import Hosts, obstacle
from PIL import Image
from test_faults import assert_equal_runs, count_rows, wait_until
from test_train import arguments, last

import train

pytestmark = [pytest.mark.slow, pytest.mark.skipif(obstacle() is not None, reason=f"{obstacle()}")]

TERMS = ["--pi", "--pa", "--cwd", "on=layer2:layer3", "--fitnet", "on=layer3"]
COMMON = ["--device", "cpu", "--batch-size", "4", "--norm", "sync_batch_norm", "--save-every", "1"]
STEPS = ["--num-steps", "18", "--val-every", "9"]
PATIENCE = ["--timeout-minutes", "0.1"]
GONE = r"^train\.py: error: other processes are gone, .* with --resume on every machine$"


@pytest.fixture(scope="module")
def hosts(tiny, tmp_path_factory):
    """With the tiny data set on each disk."""
    machines = Hosts(tmp_path_factory.mktemp("hosts"))
    for disk in machines.disks:
        shutil.copytree(tiny, disk, dirs_exist_ok=True)
    yield machines
    machines.close()


def train_on(hosts, words, ranks=1, codes=(0, 0)):
    with ExitStack() as stack:
        jobs = [stack.enter_context(hosts.start(number, words, ranks)) for number in (0, 1)]
        for job, code in zip(jobs, codes, strict=True):
            assert job.wait() == code, job.log.read_text()
    return [job.log.read_text() for job in jobs]


@pytest.fixture(scope="module")
def whole(hosts, tiny):
    """A run on two machines that nothing disturbs, in the shared folder."""
    train_on(hosts, arguments(tiny, hosts.folder, "whole", ["--pi"], *COMMON, *STEPS))
    return hosts.folder / "whole"


@pytest.mark.parametrize("ranks", [1, 2])
def test_two_machines_train_as_one(ranks, hosts, tiny, tmp_path):
    """With one process each, and data and snapshots on a disk of their own; with two, from a shared folder."""
    steps = ["--num-steps", "3", "--optimizer", "sgd", "--lr-g", "0.01"]
    data, folder = (hosts.disk, hosts.disk) if ranks == 1 else (tiny, hosts.folder)
    train_on(hosts, arguments(data, folder, f"two_{ranks}", TERMS, *COMMON, *steps), ranks)
    train.main(arguments(tiny, tmp_path, "one", TERMS, *COMMON, *steps))
    folder = hosts.disks[0] if ranks == 1 else hosts.folder
    one, two = last(tmp_path, "one"), last(folder, f"two_{ranks}")
    for part in ("student", "losses"):
        for key, value in one[part].items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(
                    two[part][key], value, rtol=1e-6, atol=1e-6, msg=lambda message, key=key: f"{key}: {message}"
                )


@pytest.mark.parametrize(
    ("place", "faults"),
    [("folder", ["node0 killed", "cut off"]), ("disk", ["node1 killed"])],
    ids=["shared", "own disks"],
)
def test_a_lost_machine_ends_the_job_and_a_restart_loses_nothing(place, faults, hosts, whole, tiny):
    """Whether the second machine sees the snapshots or not."""
    words = arguments(tiny, getattr(hosts, place), "lost", ["--pi"], *COMMON, *STEPS, "--resume")
    run = (hosts.folder if place == "folder" else hosts.disks[0]) / "lost"
    for fault in faults:
        rows = count_rows(run) + chance.randint(1, 4)
        with hosts.start(0, [*words, *PATIENCE]) as first, hosts.start(1, [*words, *PATIENCE]) as second:
            assert wait_until(lambda rows=rows: count_rows(run) >= rows, first), first.log.read_text()
            time.sleep(chance.uniform(0, 0.1))
            if fault == "cut off":
                hosts.cable("down")
            else:
                os.killpg((second if fault.startswith("node1") else first).pid, signal.SIGKILL)
            codes = [job.wait(60) for job in (first, second)]
            hosts.cable("up")
        logs = [job.log.read_text() for job in (first, second)]
        for code, log in zip(codes, logs, strict=True):
            text = f"SEGDISTILL_SEED={SEED}, {fault}: {codes}, {log}"
            assert code == -signal.SIGKILL or (code == 1 and len(re.findall(GONE, log, re.M)) == 1), text
            assert "/gloo/" not in log, text
        assert codes.count(-signal.SIGKILL) == fault.endswith("killed")
    train_on(hosts, words)
    assert_equal_runs(run, whole)
    assert not (hosts.disks[1] / "lost").exists(), "the first process alone writes"


def test_other_images_on_one_of_the_disks_are_refused(hosts):
    Image.new("RGB", (64, 64)).save(hosts.disks[1] / "camvid/train/1.png")
    logs = train_on(hosts, arguments(hosts.disk, hosts.disk, "differ", ["--pi"], *COMMON, *STEPS), codes=(1, 1))
    refusal = "these are not the training images and labels that the first process has: every machine needs the same"
    assert f"train.py: error: {refusal}\n" in logs[1]
    assert re.search(GONE, logs[0], re.M)
