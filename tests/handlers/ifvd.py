"""Intra-class feature variation (IFVD), in the authors' code base and in CIRKD."""

from golden_cases import CIRKD, IFVD, LOSSES, Case, Result
from torch import Tensor

from segdistill.utils.losses import intra_class_loss


@LOSSES.register(IFVD, CIRKD, computes="CriterionIFV", parameters=["classes"])
def intra_class(case: Case, inputs: dict[str, Tensor]) -> Result:
    maps = inputs["student"], inputs["teacher"], inputs["target"]
    return Result(intra_class_loss(*maps, case.parameters["classes"], reduction="original"))
