"""Depth as a network's answer: one positive map, made of the map that would be logits."""

import math

import torch
from torch import Tensor

from segdistill.dataset.depth import DepthRange

# Of maps of relative depth: the nearest place of an image is at 1, the farthest at 100.
RELATIVE = DepthRange(1.0, 100.0, metric=False)


def positive_depth(maps: Tensor, limits: DepthRange) -> Tensor:
    """Maps (N, C, h, w) before the activation as depth (N, 1, h, w) within ``limits``.

    The mean over the channels goes through a sigmoid, as in GLPN (Kim et al., 2022), here between the logarithms of the
    two ends: networks learn log depth best (Eigen et al., NIPS 2014), and 0 is the ends' geometric mean.
    """
    low, high = math.log(limits.low), math.log(limits.high)
    return torch.exp(low + (high - low) * maps.float().mean(1, keepdim=True).sigmoid())


def relative_depth(disparity: Tensor) -> Tensor:
    """Disparity (N, 1, h, w) up to scale and shift, greater where nearer, as relative depth (N, 1, h, w).

    Its inverse is the disparity, scaled and shifted in each image to 1/100..1, so that what does not depend on scale
    and shift (the ssi loss, the alignment by least squares) finds in it what the model said.
    """
    low, high = disparity.amin((2, 3), keepdim=True), disparity.amax((2, 3), keepdim=True)
    share = (disparity - low) / (high - low).clamp(min=torch.finfo(disparity.dtype).tiny)
    return 1 / (share + (1 - share) / RELATIVE.high)
