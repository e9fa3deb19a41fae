"""Distillation losses: one file per method, a pure function and the module that binds it to the networks."""

from collections.abc import Sequence
from typing import NamedTuple

from segdistill.network import SegmentationNetwork
from segdistill.utils.losses.activation_boundary import ActivationBoundary, activation_boundary_loss
from segdistill.utils.losses.base import DistillationLoss, Wanted
from segdistill.utils.losses.channel_wise import ChannelWise, channel_wise_loss
from segdistill.utils.losses.cross_entropy import TaskLoss, cross_entropy_loss, ohem_loss
from segdistill.utils.losses.factor import FactorTransfer
from segdistill.utils.losses.fbkd import FeatureBased, attended_distance, attention_maps, relation_map
from segdistill.utils.losses.fitnet import FitNet, fitnet_loss
from segdistill.utils.losses.hard import HardLabel, hard_label_loss
from segdistill.utils.losses.holistic import Holistic, critic_loss, generator_loss, gradient_penalty
from segdistill.utils.losses.mgd import MaskedGenerative, hide
from segdistill.utils.losses.mimic import Mimic, mimic_loss
from segdistill.utils.losses.overhaul import Overhaul, negative_mean, overhaul_loss
from segdistill.utils.losses.pair_wise import PairWise, pair_wise_loss
from segdistill.utils.losses.pixel_wise import PixelWise, pixel_wise_loss
from segdistill.utils.losses.pkd import Pearson, pearson_loss
from segdistill.utils.losses.rkd import Relational, relational_loss
from segdistill.utils.losses.sp import SimilarityPreserving, similarity_preserving_loss
from segdistill.utils.losses.wsld import WeightedSoftLabel, weighted_soft_label_loss

METHODS = (
    PixelWise,
    PairWise,
    Holistic,
    ChannelWise,
    FitNet,
    Overhaul,
    ActivationBoundary,
    MaskedGenerative,
    Pearson,
    SimilarityPreserving,
    Relational,
    FeatureBased,
    FactorTransfer,
    Mimic,
    HardLabel,
    WeightedSoftLabel,
)
DISTILLATION_LOSSES: dict[str, type[DistillationLoss]] = {cls.flag: cls for cls in METHODS}

__all__ = [
    "DISTILLATION_LOSSES",
    "DistillationLoss",
    "TaskLoss",
    "Term",
    "Wanted",
    "activation_boundary_loss",
    "attended_distance",
    "attention_maps",
    "build_losses",
    "channel_wise_loss",
    "critic_loss",
    "cross_entropy_loss",
    "fitnet_loss",
    "generator_loss",
    "gradient_penalty",
    "hard_label_loss",
    "hide",
    "mimic_loss",
    "negative_mean",
    "ohem_loss",
    "overhaul_loss",
    "pair_wise_loss",
    "pearson_loss",
    "pixel_wise_loss",
    "relation_map",
    "relational_loss",
    "similarity_preserving_loss",
    "weighted_soft_label_loss",
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
