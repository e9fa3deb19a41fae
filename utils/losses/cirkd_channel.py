"""Channel relations of CIRKDv2: how alike the channels of all images of the batch, and of earlier ones, are.

The channel terms of the extended code of Yang et al., Cross-Image Relational Knowledge Distillation for Semantic
Segmentation, CVPR 2022.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from segdistill.utils.distributed import world_size
from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationOutput,
    average_pool,
    check_shapes,
    full_precision,
    resize,
    unit_vectors,
)
from segdistill.utils.losses.cirkd import check_relation, relation_divergence
from segdistill.utils.losses.cirkd_memory import Queue, projection


class ChannelRelations(NamedTuple):
    """Scalars, float32 (float64 for float64 inputs); see ``channel_relation_losses``."""

    batch: Tensor
    memory: Tensor
    mse: Tensor


@full_precision
def channel_relation_losses(
    student_feature: Tensor, teacher_feature: Tensor, bank: Tensor, temperature: float = 0.1
) -> ChannelRelations:
    """Three distances between the channels of two features, each channel as a unit vector over the positions.

    batch: sum_{m,n,c} KL(p^T_mnc || p^S_mnc) / (N^2 * C), p_mnc the softmax, over the channels d of image n, of
        v_mc . v_nd / temperature. It relates the samples of a batch, of this process's batch alone.
    memory: sum_{n,c} KL(p^T_nc || p^S_nc) / (N * C), p_nc the same over the vectors of the bank.
    mse: sum_{n,c,i} (v^T_nci - v^S_nci)^2 / (N * C * H * W).

    Args:
        student_feature, teacher_feature: (N, C, H, W) each.
        bank: (M, H * W) unit vectors.

    Raises:
        ValueError: shapes that differ, a temperature that is not positive.
    """
    check_shapes(student_feature, teacher_feature, same_channels=True)
    check_relation(temperature)
    student, teacher = (unit_vectors(x.flatten(2), dim=2) for x in (student_feature, teacher_feature.detach()))
    rows, keys = (student.flatten(0, 1), teacher.flatten(0, 1)), bank[None].to(teacher)
    return ChannelRelations(
        batch=relation_divergence(*rows, student, teacher, temperature),
        memory=relation_divergence(*rows, keys, keys, temperature),
        mse=(student - teacher).square().mean(),
    )


class CrossImageChannel(DistillationLoss):
    """Cross-image channel relations: each channel's similarities to those of other images follow the teacher's.

    The sum of three terms, on maps pooled by averages, for a student that a learned projection brings to the teacher's
    channels. Factors are CIRKDv2's, its channel distillation of 100 is mse=100. The queue of the teacher's channels is
    written after the student's step, by all processes alike; CIRKDv2 writes it before. Its entries have the size of a
    pooled map, so crops must keep their size. Void positions that are masked are zeros. Pairs are made, and the
    projection's BatchNorm takes its statistics, within each process's batch.

    Args:
        batch: factor of the similarities to the channels of the batch, 0 or more
        memory: factor of the similarities to channels of earlier images, 0 or more
        mse: factor of the squared difference of the normalised channels, 0 or more
        temperature: of the softmax over similarities, above 0
        pool: side of the windows that are averaged first, 1 or more
        queue: entries of the queue
        contrast: entries a step is compared with
        channels: channels that a step enters at most, of all processes together
    """

    flag = "cirkd-channel"
    paper = "Yang et al., CIRKDv2"

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        weight: float = 1.0,
        on: str = "context",
        batch: float = 1.0,
        memory: float = 0.1,
        mse: float = 0.0,
        temperature: float = 0.1,
        pool: int = 4,
        queue: int = 10_000,
        contrast: int = 2_048,
        channels: int = 256,
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        check_relation(temperature, pool)
        if min(batch, memory, mse) < 0 or min(contrast, channels) < 1:
            raise ValueError(
                f"--{self.flag} batch={batch} memory={memory} mse={mse}: 0 or more; contrast={contrast} "
                f"channels={channels}: 1 or more"
            )
        self.factors = ChannelRelations(batch, memory, mse)
        self.temperature, self.pool, self.contrast, self.channels = temperature, pool, contrast, channels
        self.projection = projection(student_channels, teacher_channels)
        self.queue = Queue(1, queue)

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        student_map = self.projection(self._pooled(resize(student_map, teacher_map.shape[2:]), batch))
        teacher_map = self._pooled(teacher_map, batch)
        bank = self.queue.sample(self.contrast, teacher_map.shape[2:].numel(), teacher_map.device)
        terms = channel_relation_losses(student_map, teacher_map, bank, self.temperature)
        return sum(factor * term for factor, term in zip(self.factors, terms, strict=True))

    def after_step(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> None:
        """Enter random channels of the teacher into the queue."""
        _, teacher_map = self.maps(student, teacher)
        vectors = unit_vectors(self._pooled(teacher_map.float(), batch).flatten(2), dim=2).flatten(0, 1)
        own = -(-self.channels // world_size())
        vectors = vectors[torch.randperm(len(vectors), device=vectors.device)[:own]]
        self.queue.push(vectors, torch.zeros(len(vectors), dtype=torch.int64, device=vectors.device))

    def get_extra_state(self) -> dict[str, Tensor | None]:
        return self.queue.state()

    def set_extra_state(self, state: dict[str, Tensor | None]) -> None:
        self.queue.load(state)

    def _pooled(self, maps: Tensor, batch: Batch) -> Tensor:
        valid = self.mask(batch, maps).get("valid")
        return average_pool(maps, self.pool, valid)[0]
