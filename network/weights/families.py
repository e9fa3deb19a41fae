"""Registry of code bases: each module recognises its own state dicts and converts them.

``claims(state_dict) -> bool`` looks at key names only and is true for that code base's files only;
``read(state_dict) -> Weights`` renames the entries to ours and describes the network they belong to.
"""

from collections.abc import Mapping

from torch import Tensor

from segdistill.network.weights import akd, cirkd, espnet, imagenet, own, skd, torchvision
from segdistill.network.weights.base import Weights
from segdistill.network.weights.wrappers import unwrap

FAMILIES = {
    "akd": akd,
    "cirkd": cirkd,
    "espnet": espnet,
    "imagenet": imagenet,
    "skd": skd,
    "torchvision": torchvision,
}

__all__ = ["FAMILIES", "Weights", "recognise"]


def recognise(content: Mapping, source: str, described: Mapping | None = None, entry: str | None = None) -> Weights:
    """Convert the content of a file: our own format, or that of the one family that claims it.

    Args:
        source: its name, for errors.
        described: known arguments of ``build_network``; a plain state dict in the key names of that network, or of its
            library, is read as this network.
        entry: which to take of several networks in one file.

    Raises:
        ValueError: no family claims it, or more than one does, or its entries are invalid.
    """
    try:
        if own.claims(content) and entry is None:
            weights = own.read(content)
        else:
            state_dict, skipped = unwrap(content, entry)
            weights = read(state_dict, described)
            weights.skipped += skipped
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    weights.source = source
    return weights


def read(state_dict: Mapping[str, Tensor], described: Mapping | None) -> Weights:
    claiming = [name for name, family in FAMILIES.items() if family.claims(state_dict)]
    plain = own.read_plain(state_dict, described, whole=bool(claiming)) if described else None
    if plain:
        return plain
    if not claiming and described:
        first = ", ".join(list(state_dict)[:3])
        raise ValueError(
            f"it belongs to no family known here, and none of its entries ({first}, ...) is of a {described['name']}"
        )
    if not claiming:
        roots = list(dict.fromkeys(key.partition(".")[0] for key in state_dict))
        raise ValueError(
            f"it belongs to no family known here; its keys begin {', '.join(list(state_dict)[:3])} and are in "
            f"{', '.join(roots[:12])}{' ...' if len(roots) > 12 else ''}: name its network, {remedy(state_dict)}"
        )
    if len(claiming) > 1:
        raise ValueError(f"it could belong to {' and '.join(claiming)}: rename its keys to one of them")
    try:
        return FAMILIES[claiming[0]].read(state_dict)
    except (KeyError, IndexError, TypeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else "has an entry of other dimensions"
        raise ValueError(f"it looks like a file of {claiming[0]}, but {what}") from error


def remedy(state_dict: Mapping[str, Tensor]) -> str:
    """The flags that name the network of a plain state dict, as far as its keys tell."""
    if {"segmentation_head.0.weight", "segmentation_head.0.bias"} <= state_dict.keys():
        flags = "--network smp:unet --network-options encoder_name=resnet34, with its architecture and encoder"
    elif any(key.startswith("decode_head.") for key in state_dict):
        flags = "--network hf:ID, its name on the hub or its folder"
    else:
        flags = "--network NAME --network-options key=value"
    return f"{flags} (of a teacher: --teacher-network and --teacher-options)"
