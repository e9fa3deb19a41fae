"""Removes what trainers add around a network's weights: outer dictionaries and key prefixes."""

import re
from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from segdistill.libs.text import shown
from segdistill.network.weights.base import is_state_dict

# torch.compile, FSDP and activation checkpointing put these before the names of a module inside any other.
ANYWHERE = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# DataParallel and DistributedDataParallel ("module"), and usual names of the network in a trainer's module.
ROOTS = ("module", "model", "net", "network", "student", "teacher", "ema", "ema_model", "model_ema")
# Entries of losses and metrics in a trainer's module.
BESIDE = re.compile(r"\w*(criterion|criteria|loss|losses|metric|metrics)(_\w+)?\.", re.IGNORECASE)
COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel


def unwrap(content: Mapping, entry: str | None = None) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict of one network in a training checkpoint, and the other entries, which are skipped.

    The one mapping of names to tensors at the top or one level down; without the prefixes that all names share, in any
    order and number.

    Args:
        entry: which to take where there are several state dicts, or networks under different prefixes.

    Raises:
        ValueError: there is none, or there are several; lists them and says how to choose.
    """
    if {"student", "losses", "optimizer"} <= content.keys():
        raise ValueError("it is what a run continues from (last.pth); the student's weights are best.pth beside it")
    found = {"": content} if is_state_dict(content) else {k: v for k, v in content.items() if is_state_dict(v)}
    if entry in found:
        found, entry = {entry: found[entry]}, None
    if not found:
        holds = ", ".join(f"{shown(key)[1:-1]}: {type(value).__name__}" for key, value in list(content.items())[:5])
        raise ValueError(f"it holds no state dict, at the top or one level down; it holds {holds or 'nothing'}")
    if len(found) > 1:
        raise ValueError(f"it holds several state dicts: {choice(found)}")
    (state_dict,) = found.values()
    return peel(state_dict, entry)


def peel(state_dict: Mapping[str, Tensor], entry: str | None) -> tuple[dict[str, Tensor], list[str]]:
    """Remove prefixes from the keys; otherwise like ``unwrap``."""
    dropped = []
    while True:
        names = {key: ANYWHERE.sub("", key) for key in state_dict}
        if len(set(names.values())) < len(names):
            raise ValueError("it holds entries whose names differ by what torch.compile or FSDP puts before them alone")
        state_dict = {names[key]: value for key, value in state_dict.items()}
        beside = [key for key in state_dict if key == COUNTER or BESIDE.match(key)]
        roots = Counter(key.partition(".")[0] for key in state_dict if key not in beside)
        if entry in roots:
            root, entry = entry, None
        elif len(roots) == 1 and roots.keys() <= set(ROOTS):
            (root,) = roots
        elif len(roots) > 1 and roots.keys() <= set(ROOTS):
            raise ValueError(f"it holds several networks in one state dict: {choice(roots)}")
        elif entry is not None:
            raise ValueError(f"it holds nothing under {entry!r}")
        else:
            kept = {key: value for key, value in state_dict.items() if key not in beside}
            return (kept, dropped + beside) if kept else (state_dict, dropped)
        dropped += [key for key in state_dict if not key.startswith(f"{root}.")]
        state_dict = {key.removeprefix(f"{root}."): v for key, v in state_dict.items() if key.startswith(f"{root}.")}


def choice(names: Mapping) -> str:
    listed = [shown(name)[1:-1] for name in names]
    return f"{', '.join(listed)}; python -m segdistill.network convert FILE OUT.pth --entry {listed[-1]} takes one"
