"""What every network returns."""

from typing import NamedTuple

from torch import Tensor


class SegmentationOutput(NamedTuple):
    """A network's answer to a batch of N images.

    logits: (N, C, h, w) float, at the network's own stride, not upsampled.
    aux_logits: the deep-supervision head's logits, or None.
    features: the maps that the caller named, each (N, C_name, h_name, w_name).
    """

    logits: Tensor
    aux_logits: Tensor | None
    features: dict[str, Tensor]
