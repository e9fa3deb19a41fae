"""Inter-class similarity (AICSD)."""

from golden_cases import AICSD, LOSSES, Case, Result
from torch import Tensor

from segdistill.utils.losses import inter_class_loss


@LOSSES.register(AICSD, parameters=["ic_lambda"])
def gram(case: Case, inputs: dict[str, Tensor]) -> Result:
    loss = inter_class_loss(inputs["student"], inputs["teacher"], "gram", reduction="original")
    return Result(case.parameters["ic_lambda"] * loss)


@LOSSES.register(AICSD, parameters=["lo_lambda"])
def divergences(case: Case, inputs: dict[str, Tensor]) -> Result:
    loss = inter_class_loss(inputs["student"], inputs["teacher"], "kl", reduction="original")
    return Result(case.parameters["lo_lambda"] * loss)
