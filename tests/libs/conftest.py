from types import SimpleNamespace

import pytest
import torch

import segdistill.libs.functions as functions
from segdistill import libs


@pytest.fixture(params=["python", "compiled"])
def kernels(request, monkeypatch):
    """Run the test on the pure-PyTorch kernels, then on the compiled ones."""
    if request.param == "compiled":
        if libs.FALLBACK["cpu"]:
            pytest.skip(f"compiled kernels are not active: {libs.FALLBACK['cpu']}")
        return
    pure = SimpleNamespace(
        abn_moments=functions.moments,
        abn_forward_=functions.forward_,
        abn_sums=functions.sums,
        abn_backward=functions.backward,
        inplace_abn_=torch.ops.segdistill.inplace_abn_,
    )
    monkeypatch.setattr(functions, "ops", pure)
    monkeypatch.setattr(libs.abn, "ops", pure)
