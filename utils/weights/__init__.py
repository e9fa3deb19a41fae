"""Files of weights: one module per code base, which says whether it claims a state dict and reads it.

``claims(state_dict) -> bool`` looks at key names alone and is true of that code base's files and no others;
``read(state_dict) -> Weights`` renames the entries to ours and describes the network they belong to.
"""

from collections.abc import Mapping

from torch import Tensor

from segdistill.utils.weights import espnet, imagenet, skd, torchvision
from segdistill.utils.weights.base import Weights

FAMILIES = {"espnet": espnet, "imagenet": imagenet, "skd": skd, "torchvision": torchvision}

__all__ = ["FAMILIES", "Weights", "recognise"]


def recognise(state_dict: Mapping[str, Tensor], source: str) -> Weights:
    """The one family that claims a state dict reads it.

    Raises:
        ValueError: none does, or more than one.
    """
    claiming = [name for name, family in FAMILIES.items() if family.claims(state_dict)]
    if not claiming:
        raise ValueError(f"{source} belongs to no family known here; its keys begin {', '.join(list(state_dict)[:5])}")
    if len(claiming) > 1:
        raise ValueError(f"{source} could belong to {' and '.join(claiming)}: rename its keys to one of them")
    weights = FAMILIES[claiming[0]].read(state_dict)
    weights.source = source
    return weights
