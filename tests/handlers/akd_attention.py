"""AKD: attention and pair-wise similarities of maps before their activation."""

from golden_cases import AICSD, AKD, LOSSES, Case, Result
from torch import Tensor

from segdistill.utils.losses import attention_loss, pair_wise_loss


@LOSSES.register(AKD, computes="attention")
def attention(case: Case, inputs: dict[str, Tensor]) -> Result:
    return Result(attention_loss(inputs["student"], inputs["teacher"], over="column"))


@LOSSES.register(AKD, AICSD, computes="pair-wise")
def pair_wise(case: Case, inputs: dict[str, Tensor]) -> Result:
    scale = case.parameters.get("scale", 0.5)
    loss = pair_wise_loss(inputs["student"], inputs["teacher"], scale, reduction="original")
    return Result(case.parameters.get("pa_lambda", 1) * loss)
