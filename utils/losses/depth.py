"""Losses of depth maps, on labels and between a student's and a teacher's: SILog, L1, berHu, and the one that is
invariant to scale and shift."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationNetwork,
    SegmentationOutput,
    check_shapes,
    full_precision,
    mean_over,
    resize,
    upcast,
)

Kind = Literal["silog", "l1", "berhu", "ssi"]
LEAST = 1e-6  # depth and disparity below it are taken for it
SCALES = 4  # of gradient matching


@full_precision
def silog_loss(depth: Tensor, target: Tensor, valid: Tensor, num_valid: Tensor | None = None) -> Tensor:
    """Eigen et al., NIPS 2014, eq. 4 with lambda = 1/2: mean(g^2) - mean(g)^2 / 2, g = log depth - log target, of each
    image; the mean over images, weighted by their valid pixels.

    Args:
        depth, target: (N, H, W), above 0 where ``valid``.
        valid: (N, H, W) bool.
        num_valid: see ``mean_over``.

    Returns:
        Scalar, float32 (float64 for float64 inputs); 0 without a valid pixel.
    """
    g = masked(depth, valid, 1).clamp(min=LEAST).log() - masked(target, valid, 1).clamp(min=LEAST).log()
    count = valid.flatten(1).sum(1).clamp(min=1)
    mean = g.flatten(1).sum(1) / count
    return mean_over(g.square() - (mean.square() / 2)[:, None, None], valid, num_valid)


@full_precision
def l1_loss(depth: Tensor, target: Tensor, valid: Tensor, num_valid: Tensor | None = None) -> Tensor:
    """|depth - target|, mean over the valid pixels. Args, returns: as ``silog_loss``."""
    return mean_over((masked(depth, valid) - masked(target, valid)).abs(), valid, num_valid)


@full_precision
def berhu_loss(depth: Tensor, target: Tensor, valid: Tensor, num_valid: Tensor | None = None) -> Tensor:
    """Laina et al., 3DV 2016, eq. 2: |x| up to c, (x^2 + c^2) / (2c) beyond, where x = depth - target and c is a fifth
    of the image's greatest |x| (the batch's in the paper, which would make an image's loss depend on the others).

    Args, returns: as ``silog_loss``.
    """
    x = (masked(depth, valid) - masked(target, valid)).abs()
    c = x.detach().flatten(1).amax(1)[:, None, None].clamp(min=LEAST) / 5
    return mean_over(torch.where(x <= c, x, (x.square() + c * c) / (2 * c)), valid, num_valid)


@full_precision
def scale_shift_invariant_loss(
    depth: Tensor, target: Tensor, valid: Tensor, num_valid: Tensor | None = None, gradient: float = 0.5
) -> Tensor:
    """MiDaS (Ranftl et al., TPAMI 2022), eqs. 5 to 7 and 11, on disparity d = 1 / depth of each image.

    Both disparities are shifted by their median and divided by their mean absolute deviation from it, as eq. 6 has it,
    so that a teacher of relative depth, whose map means d up to a scale and a shift, can teach. Then the mean of half
    their absolute difference, plus ``gradient`` times that of its differences between neighbours at four scales.

    Args:
        gradient: weight of the gradient matching, 0 or more.
        others, returns: as ``silog_loss``.
    """
    normal = [standardised(1 / masked(x, valid, 1).clamp(min=LEAST), valid) for x in (depth, target)]
    difference = normal[0] - normal[1]
    loss = mean_over(difference.abs() / 2, valid, num_valid)
    for step in (2**scale for scale in range(SCALES)) if gradient else ():
        coarse, known = difference[:, ::step, ::step], valid[:, ::step, ::step]
        share = None if num_valid is None else num_valid * (known[0].numel() / valid[0].numel())
        across = (coarse[:, :, 1:] - coarse[:, :, :-1]).abs() * (known[:, :, 1:] & known[:, :, :-1])
        down = (coarse[:, 1:] - coarse[:, :-1]).abs() * (known[:, 1:] & known[:, :-1])
        count = known.sum() if share is None else share
        loss = loss + gradient * (across.sum() + down.sum()) / count.clamp(min=1)
    return loss


LOSSES: dict[str, Callable[..., Tensor]] = {
    "silog": silog_loss,
    "l1": l1_loss,
    "berhu": berhu_loss,
    "ssi": scale_shift_invariant_loss,
}


def masked(x: Tensor, valid: Tensor, value: float = 0.0) -> Tensor:
    """``x`` with ``value`` where it is not valid, NaN or not."""
    return x.masked_fill(~valid, value)


def standardised(x: Tensor, valid: Tensor) -> Tensor:
    """Each image of ``x`` (N, H, W) less its median, over its mean absolute deviation; 0 where not valid."""
    flat, known = x.flatten(1), valid.flatten(1)
    median = flat.masked_fill(~known, torch.nan).nanmedian(1, keepdim=True).values.nan_to_num()
    centred = (flat - median).masked_fill(~known, 0)
    spread = centred.abs().sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp(min=1)
    return (centred / spread.clamp(min=LEAST)).view_as(x)


class DepthMap(DistillationLoss):
    """Depth: the student's map of depth is the teacher's, up to scale and shift (ssi), or in metres (silog, l1, berhu).

    Args:
        kind: ssi, the usual one for a teacher of relative depth; silog, the usual one for metres, l1 or berhu
        gradient: of ssi, weight of the differences between neighbours, 0 or more
    """

    flag = "depth"
    paper = "Eigen et al., NIPS 2014; Laina et al., 3DV 2016; Ranftl et al., TPAMI 2022"

    def __init__(
        self, *, weight: float = 1.0, on: str = "depth", kind: Kind | None = None, gradient: float = 0.5, **settings
    ):
        super().__init__(weight=weight, on=on, **settings)
        if not gradient >= 0:
            raise ValueError(f"--depth gradient={gradient}: a weight is 0 or more")
        self.kind, self.gradient = kind, gradient

    @classmethod
    def between(cls, student: SegmentationNetwork, teacher: SegmentationNetwork, **settings: object) -> "DepthMap":
        usual = "silog" if teacher.depth and teacher.depth.metric else "ssi"
        return cls(**{**settings, "kind": settings.get("kind") or usual})

    def check_networks(self, student: SegmentationNetwork, teacher: SegmentationNetwork) -> None:
        super().check_networks(student, teacher)
        for owner, network, names in zip(("student", "teacher"), (student, teacher), self.needs, strict=True):
            if network.depth is None or names != {"depth"}:
                raise ValueError(f"--depth compares maps of depth, which the {owner}'s {min(names)} is not")
        if self.kind != "ssi" and not teacher.depth.metric:
            raise ValueError(f"--depth kind={self.kind} compares metres, and the teacher's depth is relative: kind=ssi")

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = map(upcast, self.maps(student, teacher))
        check_shapes(student_map, teacher_map, same_channels=True)
        student_map = resize(student_map, teacher_map.shape[2:])[:, 0]
        mask = self.mask(batch, teacher_map)
        valid = mask.get("valid", torch.ones_like(teacher_map[:, 0], dtype=torch.bool))
        settings = {"gradient": self.gradient} if self.kind == "ssi" else {}
        return LOSSES[self.kind](student_map, teacher_map[:, 0].detach(), valid, mask.get("num_valid"), **settings)
