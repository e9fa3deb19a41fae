"""Feature-based distillation (FBKD): attention says where and what to imitate, non-local maps how positions relate.

Zhang and Ma, Improve Object Detection with Feature-based Knowledge Distillation, ICLR 2021, section 3.
"""

import torch
from torch import Tensor, nn

from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationOutput,
    check_reduction,
    check_temperature,
    full_precision,
    resize,
    unit_vectors,
)


@full_precision
def attended_distance(
    student: Tensor,
    teacher: Tensor,
    attention: Tensor | None = None,
    valid: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Root mean square of sqrt(attention) (s - t) in every image, mean over images.

    Args:
        student, teacher: (N, ...) of one shape; maps (N, C, H, W) if there is a ``valid``.
        attention: broadcasts over them, 0 or more; takes no gradient. None for 1.
        valid: (N, H, W) bool, the positions that count; None for all.
        reduction: "mean", or "original" for the root of the sum over everything, the batch included; it takes no
            ``valid``.

    Returns:
        Scalar, float32 (float64 for float64 inputs), 0 or more.

    Raises:
        ValueError: shapes that differ, an unknown reduction.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ")
    check_reduction(reduction, valid)
    difference = student - teacher.detach()
    if attention is not None:
        difference = difference * attention.detach().sqrt()
    if reduction == "original":
        return torch.linalg.vector_norm(difference)
    num = difference[0].numel()
    if valid is not None:
        difference = difference.masked_fill(~valid[:, None], 0)
        num = valid.flatten(1).sum(1).clamp(min=1) * difference.shape[1]
    return (torch.linalg.vector_norm(difference.flatten(1), dim=1) / num**0.5).mean()


@torch.no_grad()
@full_precision
def attention_maps(feature: Tensor, valid: Tensor | None = None, temperature: float = 0.5) -> tuple[Tensor, Tensor]:
    """Spatial attention (N, 1, H, W) and channel attention (N, C, 1, 1) of a map (N, C, H, W), each of mean 1."""
    strength = feature.abs()
    spatial = (strength.mean(1).flatten(1) / temperature).masked_fill(_hidden(feature, valid), -torch.inf)
    channel = _mean_over_positions(strength, valid) / temperature
    num_valid = (~_hidden(feature, valid)).sum(1, keepdim=True)
    spatial = spatial.softmax(1).nan_to_num(0) * num_valid  # an image without a valid position has none
    return spatial.view_as(feature[:, :1]), (channel.softmax(1) * channel.shape[1])[:, :, None, None]


@full_precision
def relation_map(feature: Tensor, valid: Tensor | None = None) -> Tensor:
    """Relations of positions of a map (N, C, H, W): r_i = mean_j cos(x_i, x_j) x_j over valid positions j.

    Through the (C, C) product of directions and features, so that no matrix over pairs of positions is made: 134 MB at
    batch 8 and 2048 channels.
    """
    positions = feature.flatten(2).masked_fill(_hidden(feature, valid)[:, None], 0)
    num = (~_hidden(feature, valid)).sum(1).clamp(min=1)[:, None, None]
    directions = unit_vectors(positions, dim=1)
    product = positions @ directions.transpose(1, 2) / num
    return (product @ directions).view_as(feature)


def _hidden(feature: Tensor, valid: Tensor | None) -> Tensor:
    """(N, H * W) bool."""
    if valid is None:
        return torch.zeros_like(feature[:, 0], dtype=torch.bool).flatten(1)
    return ~valid.flatten(1)


def _mean_over_positions(feature: Tensor, valid: Tensor | None) -> Tensor:
    """(N, C)."""
    hidden = _hidden(feature, valid)
    return feature.flatten(2).masked_fill(hidden[:, None], 0).sum(2) / (~hidden).sum(1, keepdim=True).clamp(min=1)


class FeatureBased(DistillationLoss):
    """Feature-based distillation: attention-guided imitation of a map, its channel and position means, its relations.

    The term is the guided distance + the weighted distances of the other three, each a root mean square with its own
    adapter. The originals take roots of sums over the batch: a weight w is w * sqrt(N * K) here, K the elements of an
    image's map (7e-5 is 0.29 for the guided distance at batch 8, 512 channels, 64x64; 4e-3 is 0.26 for the channels,
    0.72 for the positions). Relations are those of the maps themselves, without the originals' learned embeddings,
    which the teacher's side could drive to 0.

    Args:
        temperature: of the attention, above 0
        channel: weight of the channels' means relative to the guided distance, 0 or more
        spatial: weight of the positions' means, 0 or more
        relation: weight of the relations, 0 or more
    """

    flag = "fbkd"
    paper = "Zhang and Ma, ICLR 2021, section 3"

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        weight: float = 0.3,
        on: str = "context",
        temperature: float = 0.5,
        channel: float = 1.0,
        spatial: float = 2.5,
        relation: float = 1.0,
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        check_temperature(temperature)
        if min(channel, spatial, relation) < 0:
            raise ValueError(f"--fbkd channel={channel} spatial={spatial} relation={relation}: each is 0 or more")
        self.temperature, self.channel, self.spatial, self.relation = temperature, channel, spatial, relation
        self.adapter = nn.Conv2d(student_channels, teacher_channels, 1)
        self.channel_adapter = nn.Linear(student_channels, teacher_channels)
        self.spatial_adapter = nn.Conv2d(1, 1, 3, padding=1)
        self.relation_adapter = nn.Conv2d(student_channels, teacher_channels, 1)

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        student_map = self.without_void(batch, resize(student_map, teacher_map.shape[2:]))
        valid = self.mask(batch, teacher_map).get("valid")
        adapted = self.adapter(student_map)

        maps = [attention_maps(x, valid, self.temperature) for x in (adapted, teacher_map)]
        (student_spatial, student_channel), (teacher_spatial, teacher_channel) = maps
        attention = (student_spatial + teacher_spatial) / 2 * (student_channel + teacher_channel) / 2
        loss = attended_distance(adapted, teacher_map, attention, valid)

        means = [_mean_over_positions(x.float(), valid) for x in (student_map, teacher_map)]
        loss = loss + self.channel * attended_distance(self.channel_adapter(means[0]), means[1])
        means = [x.mean(1, keepdim=True) for x in (student_map, teacher_map)]
        loss = loss + self.spatial * attended_distance(self.spatial_adapter(means[0]), means[1], valid=valid)
        relations = [relation_map(x, valid) for x in (student_map, teacher_map)]
        related = self.relation_adapter(relations[0])
        return loss + self.relation * attended_distance(related, relations[1], valid=valid)
