"""Shapes of the weights of a described network, on the meta device."""

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from segdistill.libs.text import shown
from segdistill.network.base import SegmentationNetwork
from segdistill.network.registry import build_network


class WithoutDrawing(TorchFunctionMode):
    """Networks built inside have constants for random weights: drawing them takes most of the time.

    Constants, not what the memory held, since ``trunc_normal_`` draws again until all values are within its bounds.
    """

    DRAWS = (Tensor.uniform_, Tensor.normal_)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in self.DRAWS:
            return args[0].fill_(args[1] if len(args) > 1 else 0)  # the mean, or the lower end
        return function(*args, **(kwargs or {}))


def blueprint(config: Mapping, most: int | None = None) -> SegmentationNetwork:
    """The network that ``config`` describes, on the meta device; no weights are fetched for it.

    Args:
        config: the arguments of ``build_network``.
        most: stop building at so many parameters.

    Raises:
        ValueError: it describes no network, or one of more parameters.
    """
    settings, count = {key: value for key, value in config.items() if key != "pretrained"}, 0

    def stop(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        count += 1
        if most is not None and count > most:
            raise ValueError(f"a network of more than {most} parameters")

    hook = register_module_parameter_registration_hook(stop)
    try:
        return on_meta(settings)
    except Exception as error:  # values from a file break a constructor in any way
        raise ValueError(f"its config {shown(dict(config))} builds no network that fits it: {error}") from error
    finally:
        hook.remove()


def on_meta(settings: Mapping) -> SegmentationNetwork:
    """``build_network`` on the meta device, or moved there if its code reads values while it is built."""
    with WithoutDrawing():
        try:
            with torch.device("meta"):
                return build_network(**settings)
        except (RuntimeError, ValueError) as error:
            if "meta" not in str(error).lower():
                raise
        return build_network(**settings).to("meta")


def of_two_counts(config: Mapping) -> list[dict[str, Tensor]]:
    """The state dicts at two class counts, far apart since widths may grow in steps (ESPNet's fifth of the count)."""
    return [blueprint({**config, "num_classes": count}).state_dict() for count in (20, 200)]


def class_dependent(config: Mapping) -> set[str]:
    """The entries whose shape depends on the class count."""
    few, many = of_two_counts(config)
    return {key for key in few if few[key].shape != many[key].shape}


def count_classes(state_dict: Mapping[str, Tensor], config: Mapping) -> int:
    """The class count of a state dict in our key names, of a network described but for that; 0 without classes.

    Raises:
        ValueError: no class count explains the shapes.
    """
    few, many = of_two_counts(config)
    if all(few[key].shape == many[key].shape for key in few):
        return 0
    votes = Counter()
    for key in few.keys() & state_dict.keys():
        if few[key].ndim == state_dict[key].ndim:
            for at_20, at_200, size in zip(few[key].shape, many[key].shape, state_dict[key].shape, strict=True):
                # A side that grows by a whole number a class gives the count.
                growth, rest = divmod(at_200 - at_20, 180)
                if growth and not rest:
                    votes[20 + (size - at_20) / growth] += 1
    count = max(votes, key=votes.get, default=0)
    if count < 1 or count % 1:
        raise ValueError(f"no class count of a {config['name']} explains its shapes")
    return int(count)
