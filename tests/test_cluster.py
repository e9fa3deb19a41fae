"""experiments/cluster/: what each scheduler's variables become, by torchrun's own parser; no scheduler is there."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from segdistill.utils.options import parse_options

FOLDER = Path(__file__).parents[1] / "experiments/cluster"
NODES = ("node0", "node1")
FLAGS = ["--dataset", "camvid", "--data-dir", "a folder", "--save-name", "run"]
# Each notes how it was called, in a file of its own; srun runs its command as two machines would.
COMMANDS = {
    "scontrol": 'if [ "$1" = show ]; then printf "node0\\nnode1\\n"; fi',
    "scancel": 'kill -TERM $(cat "$NOTES"/pid.*)',
    "srun": 'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "${@:2}" & done; wait -n; code=$?; wait; exit $code',
    "torchrun": 'trap "exit 143" TERM; echo $$ > "$NOTES/pid.${SLURM_NODEID:-$SKYPILOT_NODE_RANK}"; '
    'if [ -n "$SLOW" ]; then sleep 30 & wait; fi',
}


@pytest.fixture
def call(tmp_path):
    """Start a script with the commands above and these variables; ``calls`` reads what they were called with."""

    def start(words, **variables):
        for name, body in COMMANDS.items():
            note = f'printf "%s\\0" "$@" > "$NOTES/{name}.$$"'
            (tmp_path / name).write_text(f"#!/bin/bash\n{note}\n{body}\n")
            (tmp_path / name).chmod(0o755)
        variables |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(tmp_path)}
        return subprocess.Popen(words, env=os.environ | variables)

    return start


def calls(folder, name):
    return sorted(path.read_text().split("\0")[:-1] for path in folder.glob(f"{name}.*"))


def read_torchrun(words, folder):
    """What torchrun reads of its words; train.py's parse, with ``folder`` for the data's."""
    read = get_args_parser().parse_args(words)
    assert read.module
    assert read.training_script == "segdistill.train"
    flags = read.training_script_args
    parse_options(
        [str(folder) if before == "--data-dir" else word for before, word in zip(["", *flags], flags, strict=False)]
    )
    return read


SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[0-1]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"}


def test_slurm_s_variables_reach_torchrun(call, tmp_path):
    assert call(["bash", FOLDER / "slurm.sbatch", *FLAGS], **SLURM, SLOW="").wait() == 0
    started = [read_torchrun(words, tmp_path) for words in calls(tmp_path, "torchrun")]
    assert sorted(one.node_rank for one in started) == [0, 1]
    for one in started:
        assert (one.nnodes, one.nproc_per_node, one.master_addr, one.master_port) == ("2", "4", "node0", 20007)
        assert one.training_script_args == [*FLAGS, "--resume"]
    assert calls(tmp_path, "scontrol") == [["show", "hostnames", "node[0-1]"]], "a job that is done is not queued again"


def test_a_slurm_job_out_of_time_is_stopped_and_queued_again(call, tmp_path):
    job = call(["bash", FOLDER / "slurm.sbatch", *FLAGS], **SLURM, SLOW="1")
    deadline = time.monotonic() + 60
    while sum(bool(path.read_text()) for path in tmp_path.glob("pid.*")) < len(NODES):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 128 + signal.SIGTERM
    assert calls(tmp_path, "scancel") == [["--signal=TERM", "7"]]
    assert ["requeue", "7"] in calls(tmp_path, "scontrol")


def test_skypilot_s_variables_reach_torchrun(call, tmp_path):
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((FOLDER / "sky.yaml").read_text())
    for rank in range(len(NODES)):
        variables = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": str(rank), "SKYPILOT_NUM_GPUS_PER_NODE": "1"}
        variables |= {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", **job["envs"], "SLOW": ""}
        assert call(["bash", "-c", job["run"]], **variables).wait() == 0
    started = [read_torchrun(words, tmp_path) for words in calls(tmp_path, "torchrun")]
    assert sorted(one.node_rank for one in started) == [0, 1]
    assert {(one.nnodes, one.nproc_per_node, one.master_addr) for one in started} == {("2", "1", "10.0.0.1")}
    assert all(one.training_script_args[:2] == shlex.split(job["envs"]["FLAGS"])[:2] for one in started)


def test_kubeflow_s_variables_reach_torchrun(monkeypatch, tmp_path):
    yaml = pytest.importorskip("yaml")
    trainer = yaml.safe_load((FOLDER / "trainjob.yaml").read_text())["spec"]["trainer"]
    for name, value in {"NNODES": 2, "NPROC_PER_NODE": 1, "NODE_RANK": 1, "MASTER_ADDR": "job-node-0-0.job"}.items():
        monkeypatch.setenv(f"PET_{name}", str(value))
    assert trainer["command"][0] == "torchrun"
    read = read_torchrun([*trainer["command"][1:], *trainer["args"]], tmp_path)
    assert (read.nnodes, read.node_rank, read.master_addr) == ("2", 1, "job-node-0-0.job")
