"""What every command does before its own work."""

import pytest
import torch

from segdistill.utils.flags import run_command


def test_a_command_computes_with_0_in_place_of_subnormal_numbers():
    torch.set_flush_denormal(False)
    subnormal = torch.full((64,), 1e-40)
    assert subnormal.mul(2).all()
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: int(subnormal.mul(2).any()))
    assert exit_.value.code == 0
