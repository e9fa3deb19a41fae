"""Distillation losses: one file per method, a pure function and the module that binds it to the networks.

A method is registered by its import here.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from segdistill.network import SegmentationNetwork
from segdistill.network.external import class_in_file
from segdistill.utils.losses.activation_boundary import ActivationBoundary, activation_boundary_loss
from segdistill.utils.losses.at import AttentionTransfer, attention_loss
from segdistill.utils.losses.base import DistillationLoss, Needs, check_temperature
from segdistill.utils.losses.channel_wise import ChannelWise, channel_wise_loss
from segdistill.utils.losses.cirkd import CrossImage, cross_image_loss
from segdistill.utils.losses.cirkd_channel import CrossImageChannel, channel_relation_losses
from segdistill.utils.losses.cirkd_memory import CrossImageMemory, memory_loss
from segdistill.utils.losses.cross_entropy import TaskLoss, cross_entropy_loss, ohem_loss
from segdistill.utils.losses.decoupled import Decoupled, decoupled_loss
from segdistill.utils.losses.depth import DepthMap
from segdistill.utils.losses.dist import Dist, dist_loss
from segdistill.utils.losses.dsd import (
    CategorySimilarity,
    PixelSimilarity,
    category_similarity_loss,
    pixel_similarity_loss,
)
from segdistill.utils.losses.factor import FactorTransfer
from segdistill.utils.losses.fbkd import FeatureBased, attended_distance, attention_maps, relation_map
from segdistill.utils.losses.fitnet import FitNet, fitnet_loss
from segdistill.utils.losses.hard import HardLabel, hard_label_loss
from segdistill.utils.losses.holistic import Holistic, critic_loss, generator_loss, gradient_penalty
from segdistill.utils.losses.inter_class import InterClass, inter_class_loss
from segdistill.utils.losses.intra_class import IntraClass, intra_class_loss
from segdistill.utils.losses.kd import KnowledgeDistillation
from segdistill.utils.losses.mgd import MaskedGenerative, hide
from segdistill.utils.losses.mimic import Mimic, mimic_loss
from segdistill.utils.losses.overhaul import Overhaul, negative_mean, overhaul_loss
from segdistill.utils.losses.pair_wise import PairWise, pair_wise_loss
from segdistill.utils.losses.pixel_wise import PixelWise, pixel_wise_loss
from segdistill.utils.losses.pkd import Pearson, pearson_loss
from segdistill.utils.losses.rkd import Relational, relational_loss
from segdistill.utils.losses.sp import SimilarityPreserving, similarity_preserving_loss
from segdistill.utils.losses.wsld import WeightedSoftLabel, weighted_soft_label_loss

DISTILLATION_LOSSES: dict[str, type[DistillationLoss]] = {
    value.flag: value
    for value in tuple(globals().values())
    if isinstance(value, type) and issubclass(value, DistillationLoss) and value is not DistillationLoss
}


class Term(NamedTuple):
    """An occurrence of a method: its name in the logs, its flag and its settings."""

    name: str
    method: str
    settings: dict[str, object]


def loss_class(method: str) -> type[DistillationLoss]:
    """The class of a method, by its flag or as FILE.py:CLASS; that file is run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such method.
    """
    if ".py:" in method:
        return class_in_file(method, DistillationLoss)
    if method not in DISTILLATION_LOSSES:
        raise ValueError(f"no method {method!r}; known: {', '.join(DISTILLATION_LOSSES)}, FILE.py:CLASS")
    return DISTILLATION_LOSSES[method]


def build_losses(
    terms: Sequence[Term], student: SegmentationNetwork, teacher: SegmentationNetwork
) -> dict[str, DistillationLoss]:
    """The terms as modules by name.

    Raises:
        ValueError: a setting or a feature that does not exist, or a method that cannot work with these networks.
    """
    losses = {}
    for name, method, settings in terms:
        cls = loss_class(method)
        if cls.needs_classes and not student.num_classes:
            raise ValueError(f"--{method} needs classes, and the student has none")
        try:
            check_temperature(settings.get("temperature", 1))
        except ValueError as error:
            raise ValueError(f"--{method}: {error}") from None
        loss = cls.between(student, teacher, **settings)
        if teacher.known_classes is not None:
            loss.known_classes = torch.tensor(teacher.known_classes)
        loss.check_networks(student, teacher)
        losses[name] = loss
    return losses
