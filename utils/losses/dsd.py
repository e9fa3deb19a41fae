"""Double similarity distillation (DSD): what changes between two maps, and how classes lie to each other.

Feng et al., Double Similarity Distillation for Semantic Image Segmentation, TIP 2021, as in CIRKD.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from segdistill.utils.losses.at import attention_map
from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    Needs,
    SegmentationOutput,
    average_pool,
    check_shapes,
    check_temperature,
    full_precision,
    mean_over,
    resize,
    unit_vectors,
    upcast,
)


def pixel_similarity_loss(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    valid: Tensor | None = None,
    num_valid: Tensor | None = None,
) -> Tensor:
    """Mean squared difference of residual attention, over batch, positions and pairs of maps (the paper's PSD).

    The residual attention of the maps k < l is the unit vector of a_l - a_k over the positions, a the attention maps
    of ``attention_loss``. The value falls with the number of positions as there.

    Args:
        student_maps, teacher_maps: two or more of each, the k-th (N, C_k, h_k, w_k); all are brought to the size
            (H, W) of the teacher's first.
        valid: (N, H, W) bool, the positions that count; the others are 0 in every map.
        num_valid: see ``mean_over``.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: other numbers of maps, batch sizes that differ.
    """
    if len(student_maps) != len(teacher_maps) or len(student_maps) < 2:
        raise ValueError(f"{len(student_maps)} student and {len(teacher_maps)} teacher maps: two or more of each")
    for student, teacher in zip(student_maps, teacher_maps, strict=True):
        check_shapes(student, teacher, same_channels=False)
    size = teacher_maps[0].shape[2:]
    student, teacher = (
        [attention_map(resize(upcast(x), size), valid=valid) for x in maps]
        for maps in (student_maps, [x.detach() for x in teacher_maps])
    )
    distances = [
        (unit_vectors(student[k] - student[m], (1, 2)) - unit_vectors(teacher[k] - teacher[m], (1, 2))).square()
        for k, m in combinations(range(len(student)), 2)
    ]
    return mean_over(torch.stack(distances).mean(0), valid, num_valid)


@full_precision
def category_similarity_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    valid: Tensor | None = None,
    num_valid: Tensor | None = None,
) -> Tensor:
    """Mean squared difference of the similarities of classes, over batch and pairs of classes (the paper's CSD).

    The similarity of the classes c and d is sum_i p_ci p_di, p_c the softmax of logits_c / temperature over the
    positions i of maps pooled by 2x2.

    Args:
        student_logits, teacher_logits: (N, C, h, w) and (N, C, H, W); the student's are brought to the teacher's size.
        valid: (N, H, W) bool, the positions that count; None for all.
        num_valid: not needed: the term is a mean over pairs of classes.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes that do not match, a temperature that is not positive.
    """
    check_shapes(student_logits, teacher_logits, same_channels=True)
    check_temperature(temperature)
    student, teacher = (
        _class_similarity(logits / temperature, valid)
        for logits in (resize(student_logits, teacher_logits.shape[2:]), teacher_logits.detach())
    )
    return (student - teacher).square().mean()


def _class_similarity(logits: Tensor, valid: Tensor | None) -> Tensor:
    """(N, C, C)."""
    logits, valid = average_pool(logits, 2, valid)
    if valid is not None:
        logits = logits.masked_fill(~valid[:, None], -torch.finfo(logits.dtype).max)
    places = logits.flatten(2).softmax(2)
    return places @ places.transpose(1, 2)


class PixelSimilarity(DistillationLoss):
    """Double similarity, of pixels: what changes in attention from map to map follows the teacher's.

    The weight is CIRKD's. It suits the maps of its recipes, as the value falls with their size.

    Args:
        on: two or more maps joined by a plus, or STUDENT+STUDENT:TEACHER+TEACHER where the names differ
    """

    flag = "psd"
    paper = "Feng et al., TIP 2021"

    def __init__(self, *, weight: float = 1000.0, on: str = "aux_logits+context+logits", **settings):
        super().__init__(weight=weight, on=on, **settings)
        self.names = [names.split("+") for names in (self.student_feature, self.teacher_feature)]
        if len(self.names[0]) != len(self.names[1]) or len(self.names[0]) < 2:
            raise ValueError(f"--psd on={on}: two or more maps joined by +, as many of the teacher as of the student")
        self.needs = Needs(*map(frozenset, self.names))

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_maps, teacher_maps = (
            [self.map_of(output, name) for name in names]
            for output, names in zip((student, teacher), self.names, strict=True)
        )
        return pixel_similarity_loss(student_maps, teacher_maps, **self.mask(batch, teacher_maps[0]))


class CategorySimilarity(DistillationLoss):
    """Double similarity, of categories: which classes lie in the same places follows the teacher's.

    The weight is CIRKD's.

    Args:
        temperature: of the softmax over the positions, above 0
    """

    flag = "csd"
    paper = "Feng et al., TIP 2021"
    equal_channels = True

    def __init__(self, *, weight: float = 10.0, on: str = "logits", temperature: float = 4.0, **settings):
        super().__init__(weight=weight, on=on, **settings)
        self.temperature = temperature

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_logits, teacher_logits = self.maps(student, teacher)
        mask = self.mask(batch, teacher_logits)
        return category_similarity_loss(student_logits, teacher_logits, self.temperature, **mask)
