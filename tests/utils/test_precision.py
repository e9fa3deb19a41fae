"""Words on precisions."""

import pytest
import torch

from segdistill.utils.precision import warn_if_slow


@pytest.mark.parametrize(
    ("capability", "device", "precision", "slow"),
    [
        ("AVX2", "cpu", "bf16", True),
        ("AVX512", "cpu", "bf16", False),
        ("AVX2", "cuda", "bf16", False),
        ("AVX2", "cpu", "float32", False),
    ],
)
def test_bfloat16_on_a_cpu_without_it_is_warned_of(monkeypatch, caplog, capability, device, precision, slow):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    warn_if_slow(device, "--teacher-precision", precision)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["--teacher-precision bf16"] * slow
