"""mmrazor's losses on logits: KD, DKD and DIST."""

import torch
from golden_cases import LOSSES, MMRAZOR, Case, Result
from torch import Tensor

from handlers.dist import as_map
from segdistill.utils.losses import decoupled_loss, dist_loss, pixel_wise_loss


@LOSSES.register(MMRAZOR, computes="KLDivergence", parameters=["tau", "reduction"])
def divergence(case: Case, inputs: dict[str, Tensor]) -> Result:
    settings = case.parameters
    student, teacher = as_map(inputs["student"]), as_map(inputs["teacher"])
    num_samples, num_classes, height, width = student.shape
    scale = {"batchmean": height * width, "sum": num_samples * height * width, "mean": 1 / num_classes}
    loss = pixel_wise_loss(student, teacher, settings["tau"])
    return Result(settings.get("loss_weight", 1.0) * scale[settings["reduction"]] * loss)


@LOSSES.register(MMRAZOR, computes="DKDLoss")
def decoupled(case: Case, inputs: dict[str, Tensor]) -> Result:
    settings = case.parameters
    ours = {"temperature": settings.get("tau", 1.0), "alpha": settings.get("alpha", 1.0)}
    ours |= {"beta": settings.get("beta", 1.0)}
    student, teacher, labels = as_map(inputs["student"]), as_map(inputs["teacher"]), inputs["gt"][:, None, None]
    # Its "mean" sums, see the note of the cases.
    scale = 1 if settings.get("reduction", "batchmean") == "batchmean" else len(student)
    loss = decoupled_loss(student, teacher, labels, **ours)
    return Result(settings.get("loss_weight", 1.0) * scale * loss)


@LOSSES.register(MMRAZOR, computes="DISTLoss")
def correlations(case: Case, inputs: dict[str, Tensor]) -> Result:
    """Of maps it correlates each position over the batch alone: ours at every position by itself, on average."""
    settings = case.parameters
    ours = {"temperature": settings.get("tau", 1.0)}
    ours |= {"beta": settings.get("inter_loss_weight", 1.0), "gamma": settings.get("intra_loss_weight", 1.0)}
    student, teacher = (as_map(inputs[name]).flatten(2) for name in ("student", "teacher"))
    positions = (x.split(1, dim=2) for x in (student, teacher))
    losses = [dist_loss(s[..., None], t[..., None], **ours) for s, t in zip(*positions, strict=True)]
    return Result(settings.get("loss_weight", 1.0) * torch.stack(losses).mean())
