"""The task losses of AmirMansurian/KD (AKD)."""

from golden_cases import AKD, LOSSES, Case, Result
from torch import Tensor

from segdistill.utils.losses import cross_entropy_loss


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: list[float]) -> Tensor:
    """Each pixel counts as often as its class's weight says: from the means over the classes' pixels."""
    total = count = 0.0
    for index, weight in enumerate(weights):
        own = labels == index
        share = weight * own.sum().to(logits)
        total = total + share * cross_entropy_loss(logits, labels.masked_fill(~own, 255))
        count = count + share
    return total / count


@LOSSES.register(AKD, computes="SegmentationLosses", parameters=["mode", "batch_average", "weight"])
def segmentation_losses(case: Case, inputs: dict[str, Tensor]) -> Result:
    settings, logits, labels = case.parameters, inputs["student"], inputs["target"]
    weights = settings["weight"] or [1.0] * logits.shape[1]
    loss = weighted_cross_entropy(logits, labels, weights)
    if settings["mode"] == "focal":  # of the mean, not of each pixel
        loss = (1 - (-loss).exp()) ** settings["gamma"] * settings["alpha"] * loss
    return Result(loss / len(logits) if settings["batch_average"] else loss)
