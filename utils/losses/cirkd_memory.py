"""Cross-image relational distillation (CIRKD) with memory: similarities of pixels to those of earlier images.

Yang et al., Cross-Image Relational Knowledge Distillation for Semantic Segmentation, CVPR 2022.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.dataset import IGNORE_INDEX
from segdistill.utils.distributed import gather_rows
from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationOutput,
    check_shapes,
    full_precision,
    mean_weights,
    resize,
    resize_labels,
    unit_vectors,
)
from segdistill.utils.losses.cirkd import check_relation, relation_divergence


@full_precision
def memory_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    bank: Tensor,
    temperature: float = 0.1,
    valid: Tensor | None = None,
    num_valid: Tensor | float | None = None,
) -> Tensor:
    """Divergence of every pixel's similarities to the vectors of a bank, mean over batch and positions.

    sum_{n,i} KL(p^T_ni || p^S_ni) / (N * H * W), p_ni the softmax, over the vectors v of the bank, of
    cos(f_ni, v) / temperature. The memory does not grow with N * H * W * M: see ``relation_divergence``.

    Args:
        student_feature, teacher_feature: (N, D, h, w) and (N, D, H, W); the student's is resized to the teacher's.
        bank: (M, D) unit vectors.
        valid: (N, H, W) bool, the positions that count; None for all.
        num_valid: see ``mean_over``.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes that do not match, a temperature that is not positive.
    """
    check_shapes(student_feature, teacher_feature, same_channels=True)
    check_relation(temperature)
    size = teacher_feature.shape[2:]
    maps = resize(student_feature, size), teacher_feature.detach()
    if valid is not None:
        maps = [x.masked_fill(~valid[:, None], 0) for x in maps]
    student, teacher = (unit_vectors(x.permute(0, 2, 3, 1).flatten(0, 2), dim=1) for x in maps)
    keys = bank[None].to(teacher)
    return relation_divergence(student, teacher, keys, keys, temperature, weights=mean_weights(valid, num_valid))


class Queue:
    """For each class a ring of the latest unit vectors; random ones, in every process the same, until it is full.

    No buffer of a module, as DistributedDataParallel sends buffers around at every step. Shapes depend on no value, so
    that nothing waits for the device.
    """

    def __init__(self, num_classes: int, size: int):
        if size < 1:
            raise ValueError(f"a queue holds 1 or more entries a class, not {size}")
        self.size = size
        self.heads = torch.zeros(num_classes, dtype=torch.int64)  # where the next entry goes
        # Of class c the rows c * size to (c + 1) * size - 1, then one for what enters no queue; made when the width is
        # known.
        self.rows: Tensor | None = None

    @property
    def entries(self) -> Tensor | None:
        """(num_classes, size, width) float32."""
        return None if self.rows is None else self.rows[:-1].unflatten(0, (len(self.heads), self.size))

    def sample(self, count: int, width: int, device: torch.device) -> Tensor:
        """The same ``count`` random slots of every class, (num_classes * count, width) float32."""
        self._prepare(width, device)
        slots = torch.randperm(self.size, device=device)[:count]
        return self.entries[:, slots].flatten(0, 1)

    def push(self, vectors: Tensor, classes: Tensor) -> None:
        """Enter every process's ``vectors`` (R, width), of ``classes`` (R,), in place of the oldest.

        Of more vectors than a ring holds the first enter. Those of class 255 enter nowhere.
        """
        vectors, classes = gather_rows(vectors), gather_rows(classes)
        self._prepare(vectors.shape[1], vectors.device)
        classes, order = classes.sort(stable=True)
        place = torch.arange(len(classes), device=classes.device) - torch.searchsorted(classes, classes)
        enters = (classes != IGNORE_INDEX) & (place < self.size)
        known = classes.masked_fill(~enters, 0)
        row = known * self.size + (self.heads[known] + place) % self.size
        self.rows[row.masked_fill(~enters, len(self.rows) - 1)] = vectors[order].float()
        counts = ((classes == self._numbers()[:, None]) & enters).sum(1)
        self.heads = (self.heads + counts) % self.size

    def state(self) -> dict[str, Tensor | None]:
        return {"heads": self.heads, "entries": self.entries}

    def load(self, state: dict[str, Tensor | None]) -> None:
        self.heads = state["heads"].clone()
        self.rows = None
        if state["entries"] is not None:
            self._hold(state["entries"])

    def _prepare(self, width: int, device: torch.device) -> None:
        if self.rows is None:
            generator = torch.Generator().manual_seed(0)
            entries = torch.randn(len(self.heads), self.size, width, generator=generator)
            self._hold(entries.div_(entries.norm(dim=2, keepdim=True)))
        self.rows, self.heads = self.rows.to(device), self.heads.to(device)

    def _hold(self, entries: Tensor) -> None:
        self.rows = torch.cat([entries.flatten(0, 1), entries.new_zeros(1, entries.shape[2])])

    def _numbers(self) -> Tensor:
        return torch.arange(len(self.heads), device=self.heads.device)


def class_regions(vectors: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The direction of the mean vector of each class in each image, and the classes.

    Args:
        vectors: (N, P, D); those of void pixels are not read.
        labels: (N, P) integers, 255 for void.

    Returns:
        (N * num_classes, D) unit vectors and (N * num_classes,) int64, 255 where the image has no such class.
    """
    numbers = torch.arange(num_classes, device=labels.device)
    of_class = labels[..., None] == numbers
    known = vectors.masked_fill((labels == IGNORE_INDEX)[..., None], 0)
    sums = torch.einsum("npc,npd->ncd", of_class.to(vectors), known)
    classes = torch.where(of_class.any(1), numbers, IGNORE_INDEX)
    return unit_vectors(sums, dim=2).flatten(0, 1), classes.flatten()


def class_pixels(vectors: Tensor, labels: Tensor, num_classes: int, count: int) -> tuple[Tensor, Tensor]:
    """Up to ``count`` random vectors of each class in each image, and the classes; see ``class_regions``.

    Returns:
        (N * num_classes * count, D) and (N * num_classes * count,) int64, 255 where the image has not as many.
    """
    numbers = torch.arange(num_classes, device=labels.device)[:, None]
    drawn = torch.rand(labels.shape, device=labels.device)[:, None]
    drawn = torch.where(labels[:, None] == numbers, drawn, -1)  # (N, num_classes, P)
    highest, pixels = drawn.topk(min(count, labels.shape[1]), dim=2)
    classes = torch.where(highest >= 0, numbers, IGNORE_INDEX)
    image = torch.arange(len(labels), device=labels.device)[:, None]
    return vectors[image, pixels.flatten(1)].flatten(0, 1), classes.flatten()


def projection(student_channels: int, teacher_channels: int) -> nn.Sequential:
    """Projection of the student's map to the teacher's channels."""
    return nn.Sequential(
        nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
        nn.BatchNorm2d(teacher_channels),
        nn.ReLU(),
        nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
    )


class CrossImageMemory(DistillationLoss):
    """Cross-image relations through memory: similarities to pixels and regions of earlier images follow the teacher's.

    The sum of two terms, against queues of the teacher's pixels and of its regions (the mean of a class in an image),
    for a student that a learned projection brings into the teacher's space. Scales are CIRKD's: its 0.1 and 0.1 are
    weight=0.1. Queues are written after the student's step, by all processes alike, so that a step does not compare
    with its own pixels; CIRKD writes them before, and pixels of any class at that. At 19 classes and 256 channels of
    the teacher they take 0.43 GB of memory and of each checkpoint. Void pixels are masked unless void=keep; the
    projection's BatchNorm takes its statistics from each process's batch.

    Args:
        pixel: factor of the term of pixels, 0 leaves it and its queue out
        region: factor of the term of regions, 0 leaves it and its queue out
        temperature: of the softmax over similarities, above 0
        pixel_queue, region_queue: entries a class
        pixel_contrast, region_contrast: entries a step is compared with, of all classes together
        pixels: pixels of a class that an image enters at most
    """

    flag = "cirkd-memory"
    paper = "Yang et al., CVPR 2022, memory-based distillation"
    min_channels = 2
    needs_classes = True

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_classes: int,
        *,
        weight: float = 0.1,
        on: str = "context",
        pixel: float = 1.0,
        region: float = 1.0,
        temperature: float = 0.1,
        pixel_queue: int = 20_000,
        region_queue: int = 2_000,
        pixel_contrast: int = 4_096,
        region_contrast: int = 1_024,
        pixels: int = 16,
        void: Literal["keep", "mask"] = "mask",
        **settings,
    ):
        super().__init__(weight=weight, on=on, void=void, **settings)
        check_relation(temperature)
        if min(pixel, region) < 0 or pixel + region == 0 or min(pixel_contrast, region_contrast, pixels) < 1:
            raise ValueError(
                f"--{self.flag} pixel={pixel} region={region}: 0 or more, not both 0; pixel_contrast={pixel_contrast} "
                f"region_contrast={region_contrast} pixels={pixels}: 1 or more"
            )
        self.temperature, self.pixels, self.num_classes = temperature, pixels, num_classes
        self.projection = projection(student_channels, teacher_channels)
        terms = {"pixel": (pixel, pixel_queue, pixel_contrast), "region": (region, region_queue, region_contrast)}
        terms = {name: term for name, term in terms.items() if term[0]}
        self.factors = {name: factor for name, (factor, _, _) in terms.items()}
        self.queues = {name: Queue(num_classes, size) for name, (_, size, _) in terms.items()}
        self.counts = {name: contrast // num_classes + 1 for name, (_, _, contrast) in terms.items()}

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        student_map = self.projection(self.without_void(batch, student_map))
        mask = self.mask(batch, teacher_map)
        loss = 0
        for name, queue in self.queues.items():
            bank = queue.sample(self.counts[name], teacher_map.shape[1], teacher_map.device)
            loss = loss + self.factors[name] * memory_loss(student_map, teacher_map, bank, self.temperature, **mask)
        return loss

    def after_step(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> None:
        """Enter the teacher's labelled pixels and regions into the queues.

        The term has compared all of these pixels, so they are finite.
        """
        _, teacher_map = self.maps(student, teacher)
        vectors = unit_vectors(teacher_map.float().flatten(2).transpose(1, 2), dim=2)
        labels = resize_labels(batch.labels, teacher_map.shape[2:]).flatten(1)
        if "pixel" in self.queues:
            self.queues["pixel"].push(*class_pixels(vectors, labels, self.num_classes, self.pixels))
        if "region" in self.queues:
            self.queues["region"].push(*class_regions(vectors, labels, self.num_classes))

    def get_extra_state(self) -> dict[str, dict[str, Tensor | None]]:
        return {name: queue.state() for name, queue in self.queues.items()}

    def set_extra_state(self, state: dict[str, dict[str, Tensor | None]]) -> None:
        for name, queue in self.queues.items():
            queue.load(state[name])
