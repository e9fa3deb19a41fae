"""Files of weights: one module per code base, which says whether it claims a state dict and reads it.

``claims(state_dict) -> bool`` looks at key names alone and is true of that code base's files and no others;
``read(state_dict) -> Weights`` renames the entries to ours and describes the network they belong to.
"""

from collections.abc import Mapping

from torch import Tensor

from segdistill.network.base import SegmentationNetwork
from segdistill.network.weights import akd, cirkd, espnet, imagenet, own, skd, torchvision
from segdistill.network.weights.base import Weights, is_state_dict

FAMILIES = {
    "akd": akd,
    "cirkd": cirkd,
    "espnet": espnet,
    "imagenet": imagenet,
    "skd": skd,
    "torchvision": torchvision,
}

__all__ = ["FAMILIES", "Weights", "recognise"]


def recognise(
    content: Mapping, source: str, described: Mapping | None = None, expected: SegmentationNetwork | None = None
) -> Weights:
    """Read the content of a file: our own format, or what exactly one family claims.

    Args:
        source: its name, for errors.
        described: the config of the network that it is for; bare state dicts in our key names are read with it.
        expected: that network itself; bare state dicts in the key names of its library are read with it.

    Raises:
        ValueError: nobody claims it, or more than one does, or it is not what it seems to be.
    """
    try:
        if own.claims(content):
            weights = own.read(content)
        else:
            described = described or (expected and expected.config)
            state_dict = unwrap(content)
            weights = (expected and own.read_plain(state_dict, expected)) or read(state_dict, described)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    weights.source = source
    return weights


def read(state_dict: Mapping[str, Tensor], described: Mapping | None) -> Weights:
    claiming = [name for name, family in FAMILIES.items() if family.claims(state_dict)]
    if not claiming and described and own.claims_raw(state_dict, described):
        return own.read_raw(state_dict, described)
    if not claiming:
        raise ValueError(f"it belongs to no family known here; its keys begin {', '.join(list(state_dict)[:5])}")
    if len(claiming) > 1:
        raise ValueError(f"it could belong to {' and '.join(claiming)}: rename its keys to one of them")
    try:
        return FAMILIES[claiming[0]].read(state_dict)
    except (KeyError, IndexError, TypeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else "has an entry of other dimensions"
        raise ValueError(f"it looks like a file of {claiming[0]}, but {what}") from error


def unwrap(content: Mapping) -> Mapping[str, Tensor]:
    """The state dict of a training checkpoint: the one mapping of names to tensors at the top or one level down.

    What DataParallel ("module.") and torch.compile ("_orig_mod.") put before every name is taken off.

    Raises:
        ValueError: there is none, or there are several.
    """
    if {"student", "losses", "optimizer"} <= content.keys():
        raise ValueError("it is what a run continues from (last.pth); the student's weights are best.pth beside it")
    found = {"": content} if is_state_dict(content) else {k: v for k, v in content.items() if is_state_dict(v)}
    if not found:
        holds = ", ".join(f"{key}: {type(value).__name__}" for key, value in list(content.items())[:5])
        raise ValueError(f"it holds no state dict, at the top or one level down; it holds {holds or 'nothing'}")
    if len(found) > 1:
        raise ValueError(f"it holds several state dicts: {', '.join(map(str, found))}; save one of them alone")
    (state_dict,) = found.values()
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in state_dict):
            state_dict = {key.removeprefix(prefix): value for key, value in state_dict.items()}
    return state_dict
