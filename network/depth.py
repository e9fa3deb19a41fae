"""Depth as a network's answer: one positive map, made of the map that would be logits."""

import math

import torch
from torch import Tensor

from segdistill.dataset.depth import DepthRange


def positive_depth(maps: Tensor, limits: DepthRange) -> Tensor:
    """Maps (N, C, h, w) before the activation as depth (N, 1, h, w) within ``limits``.

    The mean over the channels goes through a sigmoid, as in GLPN (Kim et al., 2022), here between the logarithms of the
    two ends: networks learn log depth best (Eigen et al., NIPS 2014), and 0 is the ends' geometric mean.
    """
    low, high = math.log(limits.low), math.log(limits.high)
    return torch.exp(low + (high - low) * maps.float().mean(1, keepdim=True).sigmoid())
