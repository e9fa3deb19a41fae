"""DIST: its loss and its task loss."""

from golden_cases import DIST, LOSSES, Case, Result
from torch import Tensor

from segdistill.utils.losses import cross_entropy_loss, dist_loss


def as_map(logits: Tensor) -> Tensor:
    """Logits (N, C) as a map of one position; maps as they are."""
    return logits if logits.dim() == 4 else logits[:, :, None, None]


@LOSSES.register(DIST, source_file="dist_kd", parameters=["beta", "gamma"])
def correlations(case: Case, inputs: dict[str, Tensor]) -> Result:
    settings = {"temperature": case.parameters.get("tau", 1.0)}
    settings |= {"beta": case.parameters["beta"], "gamma": case.parameters["gamma"]}
    return Result(dist_loss(as_map(inputs["student"]), as_map(inputs["teacher"]), **settings))


@LOSSES.register(DIST, computes="SegCrossEntropyLoss", parameters=["ignore_index"])
def cross_entropy(case: Case, inputs: dict[str, Tensor]) -> Result:
    return Result(cross_entropy_loss(inputs["student"], inputs["target"], case.parameters["ignore_index"]))
