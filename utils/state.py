"""The content of last.pth: each entry gets a checksum when it is written, which is compared when it is read."""

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from segdistill.network.weights.archive import read_file
from segdistill.utils.files import REMEDY

PLAIN = (str, int, float, bool, bytes, type(None))


def with_checksums(content: Mapping) -> dict:
    """``content`` and its ``checksums``, the CRC-32 of every entry by its path ("student/conv.weight")."""
    return {**content, "checksums": {path: checksum(value) for path, value in entries(content)}}


def read_state(file: Path) -> dict:
    """The content of last.pth without its checksums. Raises: as ``verified``, for a damaged file, too."""
    return verified(read_file(file, REMEDY), file)


def verified(content: Mapping, file: Path) -> dict:
    """Undo ``with_checksums``. Raises ValueError, naming file and entry, if a checksum is wrong."""
    state = dict(content)
    sums = state.pop("checksums", None)
    if not isinstance(sums, Mapping):
        raise ValueError(f"{file} is no checkpoint of a run: {REMEDY}")
    left, altered = dict(sums), None
    for path, value in entries(state):
        if path not in sums:  # at once, since nested containers of a file may be endless
            raise ValueError(f"{file} has an entry that no run wrote, {path!r:.80}: {REMEDY}")
        if left.pop(path, None) != checksum(value):
            altered = path
    if left:
        raise ValueError(f"{file} has no entry {next(iter(left))!r:.80}: {REMEDY}")
    if altered is not None:
        raise ValueError(f"{file} holds an altered entry, {altered!r:.80}: {REMEDY}")
    return state


def check_fit(state: Mapping, own: Mapping, file: Path) -> None:
    """Raise ValueError unless ``state`` has the entries of ``own``, the ``Learner.state_dict`` before step 1.

    Compared are names, shapes, types and the optimizer's settings, but the learning rate. Not compared is what steps
    add: the optimizer's state, and the methods' queues and critics (extra state).
    """
    fixed = ("student", "losses", "average", "optimizer/param_groups")
    given, expected = (
        {path: describe(x) for path, x in entries(content) if path.startswith(fixed) and not isinstance(x, Mapping)}
        for content in (state, own)
    )
    for path in [*expected, *given]:
        if "_extra_state" in path or path.endswith("/lr"):
            continue
        if given.get(path) != expected.get(path):
            raise ValueError(
                f"{file} is of another run: its entry {path!r:.80} is {given.get(path, 'absent'):.80}, "
                f"not {expected.get(path, 'absent'):.80}: {REMEDY}"
            )


def entries(content: object, path: str = "") -> Iterator[tuple[str, object]]:
    """The containers and values of nested containers, each with its path."""
    yield path, content
    children = ()
    if isinstance(content, Mapping):
        children = content.items()
    elif isinstance(content, list | tuple):
        children = enumerate(content)
    for key, value in children:
        yield from entries(value, f"{path}/{key}" if path else str(key))


def checksum(value: object) -> int:
    """CRC-32 of a tensor's type, shape and bytes, of a container's keys, or of a plain value."""
    known = zlib.crc32(describe(value).encode())
    if not isinstance(value, Tensor):
        return known
    return zlib.crc32(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), known)


def describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"dict {sorted(repr(key) if isinstance(key, PLAIN) else type(key).__name__ for key in value)}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} {len(value)}"
    return repr(value) if isinstance(value, PLAIN) else type(value).__name__
