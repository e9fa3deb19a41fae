"""What is said when other processes are gone; tests/test_hosts.py takes them away."""

import pytest
import torch.distributed as dist

from segdistill.utils.distributed import of_first_process
from segdistill.utils.flags import run_command

GLOO = "[/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [10.77.0.2]:2788: Connection reset by peer. Ask"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError(GLOO), "Read error [10.77.0.2]:2788: Connection reset by peer"),
        (RuntimeError("Application timeout caused pair closure"), "Application timeout caused pair closure"),
        (dist.DistBackendError("NCCL timed out\nframe #0: c10d"), "NCCL timed out"),
    ],
)
def test_lost_processes_are_one_line(error, reason, capsys):
    def fail():
        raise error

    with pytest.raises(SystemExit, match="1"):
        run_command(fail)
    said = capsys.readouterr().err
    assert f"other processes are gone, or take longer than --timeout-minutes ({reason}): see" in said
    assert "--resume" in said
    assert said.count("\n") == 1


def test_other_errors_keep_their_traceback():
    def fail():
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        run_command(fail)


def test_the_first_of_one_process_is_itself():
    value = {"a": object()}
    assert of_first_process(value) is value
