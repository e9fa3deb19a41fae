"""Distillation losses: one file per method, a pure function and the module that binds it to the networks."""

from collections.abc import Sequence
from typing import NamedTuple

from segdistill.network import SegmentationNetwork
from segdistill.utils.losses.at import AttentionTransfer, attention_loss
from segdistill.utils.losses.base import DistillationLoss, Wanted
from segdistill.utils.losses.channel_wise import ChannelWise, channel_wise_loss
from segdistill.utils.losses.cirkd import CrossImage, cross_image_loss
from segdistill.utils.losses.cirkd_channel import CrossImageChannel, channel_relation_losses
from segdistill.utils.losses.cirkd_memory import CrossImageMemory, memory_loss
from segdistill.utils.losses.cross_entropy import TaskLoss, cross_entropy_loss, ohem_loss
from segdistill.utils.losses.dsd import (
    CategorySimilarity,
    PixelSimilarity,
    category_similarity_loss,
    pixel_similarity_loss,
)
from segdistill.utils.losses.fitnet import FitNet, fitnet_loss
from segdistill.utils.losses.holistic import Holistic, critic_loss, generator_loss, gradient_penalty
from segdistill.utils.losses.pair_wise import PairWise, pair_wise_loss
from segdistill.utils.losses.pixel_wise import PixelWise, pixel_wise_loss

METHODS = (
    PixelWise,
    PairWise,
    Holistic,
    ChannelWise,
    FitNet,
    AttentionTransfer,
    PixelSimilarity,
    CategorySimilarity,
    CrossImage,
    CrossImageMemory,
    CrossImageChannel,
)
DISTILLATION_LOSSES: dict[str, type[DistillationLoss]] = {cls.flag: cls for cls in METHODS}

__all__ = [
    "DISTILLATION_LOSSES",
    "DistillationLoss",
    "TaskLoss",
    "Term",
    "Wanted",
    "attention_loss",
    "build_losses",
    "category_similarity_loss",
    "channel_relation_losses",
    "channel_wise_loss",
    "critic_loss",
    "cross_entropy_loss",
    "cross_image_loss",
    "fitnet_loss",
    "generator_loss",
    "gradient_penalty",
    "memory_loss",
    "ohem_loss",
    "pair_wise_loss",
    "pixel_similarity_loss",
    "pixel_wise_loss",
]


class Term(NamedTuple):
    """An occurrence of a method: its name in the logs, its flag and its settings."""

    name: str
    method: str
    settings: dict[str, object]


def build_losses(
    terms: Sequence[Term], student: SegmentationNetwork, teacher: SegmentationNetwork
) -> dict[str, DistillationLoss]:
    """The terms as modules by name. Raises ValueError for a setting or a feature that does not exist."""
    losses = {}
    for name, method, settings in terms:
        loss = DISTILLATION_LOSSES[method].between(student, teacher, **settings)
        student.check_features(loss.wanted.student)
        teacher.check_features(loss.wanted.teacher)
        losses[name] = loss
    return losses
