"""KD on logits, as every code base but SKD has it: the same divergence, divided by different numbers."""

from golden_cases import AICSD, AKD, CIRKD, CWD, DIST, IFVD, LOSSES, Case, Result
from torch import Tensor

from segdistill.network import resize
from segdistill.utils.losses import pixel_wise_loss


@LOSSES.register(CIRKD, DIST, computes="CriterionKD", parameters=["temperature"])
def mean_over_positions(case: Case, inputs: dict[str, Tensor]) -> Result:
    return Result(pixel_wise_loss(inputs["student"], inputs["teacher"], case.parameters["temperature"]))


@LOSSES.register(CWD, IFVD, AKD, AICSD, computes="CriterionKD|KLDivLoss", parameters=["temperature"])
def mean_over_elements(case: Case, inputs: dict[str, Tensor]) -> Result:
    student, teacher, temperature = inputs["student"], inputs["teacher"], case.parameters["temperature"]
    if case.parameters.get("upsample"):
        size = [8 * side for side in student.shape[2:]]
        student, teacher = resize(student, size), resize(teacher, size)
    loss = pixel_wise_loss(student, teacher, temperature) / (temperature**2 * student.shape[1])
    return Result(case.parameters.get("pi_lambda", 1.0) * loss)
