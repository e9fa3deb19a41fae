"""Depth models of transformers: what their ``predicted_depth`` means, read from the model, and how it becomes depth.

====================  ==========================================  ========================================
model                 predicted_depth                             ``depth``
====================  ==========================================  ========================================
depth_anything        disparity up to scale and shift; metres     relative; as it is
                      if depth_estimation_type is "metric"
dpt                   disparity up to scale and shift (MiDaS);    relative; as it is
                      metres on DINOv2's (add_projection)
glpn, zoedepth        metres                                      as it is
depth_pro             1 / metres for a width of one focal         1 / (predicted_depth 2 tan(view / 2)) by
                      length                                      its own field of view; relative without
====================  ==========================================  ========================================
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.utils import ModelOutput

from segdistill.dataset.depth import DepthRange
from segdistill.network.depth import RELATIVE, relative_depth
from segdistill.network.external.base import outputs_of
from segdistill.network.external.hf_states import StateReader

LARGEST = 100.0  # metres, where a model does not say what its greatest depth is


class Meaning(NamedTuple):
    """What a model's map of depth means, and how its output becomes one (N, 1, h, w)."""

    limits: DepthRange
    convert: Callable[[ModelOutput], Tensor]


def is_depth_model(config: PretrainedConfig) -> bool:
    """Whether a model is one of depth, by its class, or by its kind where it names none."""
    if config.architectures:
        return any(name.endswith("ForDepthEstimation") for name in config.architectures)
    return config.model_type in ("depth_anything", "glpn", "zoedepth", "depth_pro")


def meaning_of(config: PretrainedConfig) -> Meaning:
    """Raises ValueError for a kind of model that is not known here."""
    kind = config.model_type
    if kind == "glpn":
        return Meaning(metres(config.max_depth), as_it_is)
    if kind == "zoedepth":
        return Meaning(metres(max(bins["max_depth"] for bins in config.bin_configurations)), as_it_is)
    if kind == "depth_anything" and config.depth_estimation_type == "metric":
        return Meaning(metres(config.max_depth), as_it_is)
    if kind == "dpt" and config.add_projection:
        return Meaning(metres(LARGEST), as_it_is)
    if kind == "depth_pro" and config.use_fov_model:
        return Meaning(metres(LARGEST), by_field_of_view)
    if kind in ("depth_anything", "dpt", "depth_pro"):
        return Meaning(RELATIVE, lambda output: relative_depth(output.predicted_depth[:, None]))
    raise ValueError(f"{kind} is no model of depth that is known here: depth_anything, depth_pro, dpt, glpn, zoedepth")


def metres(greatest: float) -> DepthRange:
    """A hundredth of the greatest depth is the least."""
    return DepthRange(greatest / 100, float(greatest))


def as_it_is(output: ModelOutput) -> Tensor:
    return output.predicted_depth[:, None]


def by_field_of_view(output: ModelOutput) -> Tensor:
    widths = 2 * torch.tan(torch.deg2rad(output.field_of_view.view(-1, 1, 1, 1)) / 2)  # of the image, in focal lengths
    return 1 / (output.predicted_depth[:, None] * widths)


class DepthReader(StateReader):
    """Maps of a depth model: those of its trunk, ``context``, what its last convolution reads, and ``depth``."""

    def __init__(self, model: nn.Module, side: int, source: str):
        self.meaning = meaning_of(model.config)
        super().__init__(model, 1, side, source)

    def maps(self, model: nn.Module, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        if "depth" not in wanted:
            return super().maps(model, images, wanted)
        with outputs_of(model) as (answers,):
            maps = super().maps(model, images, wanted | {"context"})
        low, high, _ = self.meaning.limits
        return maps | {"depth": self.meaning.convert(answers[-1]).float().clamp(low, high)}
