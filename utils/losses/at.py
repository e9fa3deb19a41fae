"""Attention transfer (AT): where the student's features are strong follows the teacher's.

Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017, for dense features as in CIRKD.
"""

from typing import Literal

from torch import Tensor

from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationOutput,
    check_shapes,
    full_precision,
    mean_over,
    resize,
    unit_vectors,
)


@full_precision
def attention_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    power: int = 2,
    over: str = "map",
    valid: Tensor | None = None,
    num_valid: Tensor | None = None,
) -> Tensor:
    """Mean squared difference of the two attention maps, over batch and positions.

    sum_{n,h,w} (a^T - a^S)^2 / (N * H * W), with a = the unit vector of mean_c |f_c|^power over the positions.

    The value falls with the number of positions: a map's squared differences add up to 2 at most.

    Args:
        student_feature, teacher_feature: (N, C_s, h, w) and (N, C_t, H, W); channel counts may differ, and the
            student's map is resized to the teacher's first.
        power: 1 or more; the greater, the more the strongest channels count.
        over: "map", or "column" to normalise each column of the map by itself, as AKD's code does.
        valid: (N, H, W) bool, the positions that count; the others are 0 in both maps.
        num_valid: see ``mean_over``.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: batch sizes that differ, a power below 1, an unknown ``over``.
    """
    check_shapes(student_feature, teacher_feature, same_channels=False)
    student, teacher = (
        attention_map(feature, power, over, valid)
        for feature in (resize(student_feature, teacher_feature.shape[2:]), teacher_feature.detach())
    )
    return mean_over((student - teacher).square(), valid, num_valid)


@full_precision
def attention_map(feature: Tensor, power: int = 2, over: str = "map", valid: Tensor | None = None) -> Tensor:
    """Attention (N, H, W) of a feature (N, C, H, W), in 0..1; see ``attention_loss``."""
    check_power(power, over)
    attention = feature.abs().pow(power).mean(1)
    if valid is not None:
        attention = attention.masked_fill(~valid, 0)
    return unit_vectors(attention, dim=(1, 2) if over == "map" else 1)


def check_power(power: int, over: str) -> None:
    """Raise ValueError as ``attention_loss``."""
    if power < 1:
        raise ValueError(f"power must be 1 or more, not {power}")
    if over not in ("map", "column"):
        raise ValueError(f"attention is normalised over the map or each column, not over {over!r}")


class AttentionTransfer(DistillationLoss):
    """Attention transfer: where the features are strong follows the teacher's.

    Weights are the originals': CIRKD 10000; AKD, whose "pixel-wise" term this is over=column on the decoder's last
    map before its activation, 100. They suit the maps of those recipes, as the value falls with their size.

    Args:
        power: of the features, 1 or more; the greater, the more the strongest channels count
        over: what the attention is normalised over, the map or each of its columns
    """

    flag = "at"
    paper = "Zagoruyko and Komodakis, ICLR 2017, section 3.1"

    def __init__(
        self,
        *,
        weight: float = 10_000.0,
        on: str = "context",
        power: int = 2,
        over: Literal["map", "column"] = "map",
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        check_power(power, over)
        self.power, self.over = power, over

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = self.maps(student, teacher)
        return attention_loss(student_map, teacher_map, self.power, self.over, **self.mask(batch, teacher_map))
