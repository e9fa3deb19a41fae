"""Losses and discriminator against the original implementations: values, gradients, by-products."""

import handlers  # noqa: F401 - registers the handlers
import pytest
import torch
from golden_cases import LOSSES, Case, assert_close, case_id, subsample
from torch import Tensor


def read_inputs(case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    inputs = {name: torch.from_numpy(case.array(name)) for name in case["inputs"]}
    return {
        name: x.to(dtype).requires_grad_(f"grad.{name}" in case.arrays) if x.is_floating_point() else x
        for name, x in inputs.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", LOSSES.covered(), ids=case_id)
def test_loss_matches_the_original(case: Case, dtype: torch.dtype):
    inputs = read_inputs(case, dtype)
    result = LOSSES.find(case)(case, inputs)
    result.loss.backward()

    double = dtype == torch.float64
    tolerance = {"rtol": 1e-8, "atol": 1e-14} if double else case["tolerance"]["loss"]
    assert result.loss.dtype == dtype
    assert_close(result.loss, case.arrays["loss_f64"], **tolerance, what="loss")

    leaves = inputs | {f"param:{name}": parameter for name, parameter in result.parameters.items()}
    gradients = [key.removeprefix("grad.") for key in case.arrays if key.startswith("grad.")]
    for name in gradients:
        expected = case.arrays[f"grad.{name}"]
        tolerance = {"rtol": 2e-7, "atol": 1e-12 * abs(expected).max()} if double else case["tolerance"]["grad"][name]
        rule = None if name.startswith("param:") else case.get("grad_subsample")
        assert_close(subsample(leaves[name].grad, rule), expected, **tolerance, what=f"gradient of {name}")

    for name, output in result.outputs.items():
        expected = case.arrays[name]
        rtol = 2e-7 if double else 1e-4
        assert_close(output, expected, rtol, rtol * abs(expected).max(), what=name)


def test_every_loss_case_has_a_handler():
    LOSSES.skip_uncovered()
