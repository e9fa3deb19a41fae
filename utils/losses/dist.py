"""DIST: class probabilities correlate with the teacher's, within a position and within a class.

Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, eq. 7-9.
"""

from torch import Tensor

from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationOutput,
    check_shapes,
    check_temperature,
    full_precision,
    mean_over,
    resize,
)

POSITIONS = (0, 2, 3)  # of all maps of the batch


@full_precision
def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    valid: Tensor | None = None,
    num_valid: Tensor | None = None,
) -> Tensor:
    """temperature^2 * (beta * inter + gamma * intra), each 1 - the mean of Pearson correlations, so in 0..2.

    With p = softmax(logits / temperature): inter correlates the C probabilities of each position, intra those of each
    class at all positions of the batch. Intra knows this batch alone: it does not gather over processes, and the
    mean over the parts of a batch is not the value of the whole.

    Args:
        student_logits, teacher_logits: (N, C, h, w) and (N, C, H, W); the student's are brought to the teacher's size.
        valid: (N, H, W) bool, the positions that count; None for all. 0 if there are none.
        num_valid: see ``mean_over``; for inter.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes that do not match, a temperature that is not positive.
    """
    check_shapes(student_logits, teacher_logits, same_channels=True)
    check_temperature(temperature)

    student_logits = resize(student_logits, teacher_logits.shape[2:])
    student, teacher = ((x / temperature).softmax(1) for x in (student_logits, teacher_logits.detach()))
    inter = 1 - _cosine(*(p - p.mean(1, keepdim=True) for p in (student, teacher)), 1)
    intra = (1 - _cosine(*(_centred_classes(p, valid) for p in (student, teacher)), POSITIONS)).mean()
    if valid is not None:
        intra = intra * valid.any()
    return temperature**2 * (beta * mean_over(inter, valid, num_valid) + gamma * intra)


def _centred_classes(probabilities: Tensor, valid: Tensor | None) -> Tensor:
    """(N, C, H, W) less each class's mean over the valid positions, 0 at the others."""
    if valid is None:
        return probabilities - probabilities.mean(POSITIONS, keepdim=True)
    invalid = ~valid[:, None]
    mean = probabilities.masked_fill(invalid, 0).sum(POSITIONS, keepdim=True) / valid.sum().clamp(min=1)
    return (probabilities - mean).masked_fill(invalid, 0)


def _cosine(a: Tensor, b: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    return (a * b).sum(dim) / (_length(a, dim) * _length(b, dim) + 1e-8)


def _length(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """The Euclidean norm, of gradient 0 at 0; ``vector_norm`` is slow, and coarse in float32, over many positions."""
    square = x.square().sum(dim)
    return square.masked_fill(square == 0, 1).sqrt().masked_fill(square == 0, 0)


class Dist(DistillationLoss):
    """DIST: class probabilities correlate with the teacher's, within a position and within a class.

    The scale is the original's, whatever the batch; a class is correlated over each process's batch. Its authors add
    0.4 of the term on the auxiliary logits: --dist --dist on=aux_logits weight=0.4.

    Args:
        temperature: of the softmax, above 0
        beta: weight of the correlation over the classes at each position
        gamma: weight of the correlation over the positions of each class
    """

    flag = "dist"
    paper = "Huang et al., NeurIPS 2022, eq. 7-9"
    equal_channels = True
    min_channels = 2

    def __init__(
        self,
        *,
        weight: float = 1.0,
        on: str = "logits",
        temperature: float = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        self.temperature, self.beta, self.gamma = temperature, beta, gamma

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_logits, teacher_logits = self.maps(student, teacher)
        mask = self.mask(batch, teacher_logits)
        return dist_loss(student_logits, teacher_logits, self.temperature, self.beta, self.gamma, **mask)
