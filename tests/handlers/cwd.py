"""Channel-wise distillation (CWD)."""

from golden_cases import CWD, LOSSES, Case, Result
from torch import Tensor

from segdistill.utils.losses import channel_wise_loss


@LOSSES.register(CWD, computes="CriterionCWD", parameters=["norm_type", "divergence"])
def channel_wise(case: Case, inputs: dict[str, Tensor]) -> Result:
    settings = case.parameters
    return Result(
        channel_wise_loss(
            inputs["student"],
            inputs["teacher"],
            settings["temperature"],
            settings["norm_type"],
            settings["divergence"],
            reduction="original",
        )
    )
