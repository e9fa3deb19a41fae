"""Distillation losses: one file per method, a pure function and the module that binds it to the networks."""

from segdistill.utils.losses.base import DistillationLoss
from segdistill.utils.losses.cross_entropy import TaskLoss, cross_entropy_loss, ohem_loss
from segdistill.utils.losses.holistic import Holistic, critic_loss, generator_loss, gradient_penalty
from segdistill.utils.losses.pair_wise import PairWise, pair_wise_loss
from segdistill.utils.losses.pixel_wise import PixelWise, pixel_wise_loss

DISTILLATION_LOSSES: dict[str, type[DistillationLoss]] = {cls.flag: cls for cls in (PixelWise, PairWise, Holistic)}

__all__ = [
    "DISTILLATION_LOSSES",
    "DistillationLoss",
    "Holistic",
    "PairWise",
    "PixelWise",
    "TaskLoss",
    "critic_loss",
    "cross_entropy_loss",
    "generator_loss",
    "gradient_penalty",
    "ohem_loss",
    "pair_wise_loss",
    "pixel_wise_loss",
]
