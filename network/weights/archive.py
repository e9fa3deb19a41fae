"""Reads tensor files without running code from them: PyTorch's two formats and safetensors.

Why no code can run: a pickle reaches Python only by the names that it looks up, and ``find_class`` returns tensor
rebuilding, three containers, data types, and for all other names ``Placeholder``, which accepts anything and does
nothing. No module is searched or imported. BUILD, which sets attributes, and the registry of extension codes are
switched off, so that a file cannot change these results for the next file.
"""

import collections
import functools
import io
import json
import math
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from segdistill.libs.text import shown

# torch.save's format before PyTorch 1.6 begins with this number, pickled.
STREAM = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
LATER_DTYPES = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "uint16", "uint32", "uint64")
DTYPES = {
    **{"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32},
    **{"ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8},
    **{"BoolStorage": torch.bool, "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128},
    # Newer types have no storage class.
    "UntypedStorage": torch.uint8,
    **{name: getattr(torch, name) for name in LATER_DTYPES if hasattr(torch, name)},
}
# Limits of depth and of elements (shared ones counted each time) of a checkpoint's containers.
MOST_LEVELS, MOST_ELEMENTS, MOST_IN_KEY = 50, 10_000_000, 10_000
# End of the name of one part of a checkpoint in parts.
PART = re.compile(r"-\d{5}-of-(\d{5})(?=\.\w+$)")
# First bytes of other kinds of files.
OTHERS = {
    b"version https://git-lfs": "a git-LFS pointer, not the file that it points to (git lfs pull fetches that)",
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"<?xml": "an XML page",
    b"{": "JSON",
    b"[": "JSON",
    b"\x1f\x8b": "a gzip archive, to be unpacked first",
    b"\x89hdf": "an HDF5 file",
    b"\x80": "a pickle that PyTorch did not write",
}


class Refused(Exception):
    """A pickle names something that is neither tensor nor container."""


class Foreign(Exception):
    """The file is of another kind."""


class Placeholder:
    """Replaces any object of a pickle that is neither tensor nor container: accepts anything, does nothing."""

    state = None

    def __new__(cls, *_, **__):
        return object.__new__(Placeholder)

    def __call__(self, *_, **__):
        return Placeholder()

    append = extend = add = __setitem__ = lambda *_: None


def rebuild_tensor(
    storage: Tensor,
    offset: int,
    size: tuple,
    stride: tuple,
    requires_grad: bool = False,
    hooks: Mapping | None = None,
    metadata: Mapping[str, bool] | None = None,
) -> Tensor:
    """Rebuild a tensor of torch.save; ``metadata`` says whether its storage is negated or conjugated."""
    if math.prod(size) > storage.numel():
        raise ValueError("a tensor is larger than its storage")
    # as_strided checks its bounds, where Tensor.set_ would enlarge the storage.
    tensor = storage[offset:].as_strided(size, stride)
    pending = {key for key, value in (metadata or {}).items() if value}
    if pending - {"conj", "neg"}:
        raise ValueError(f"a tensor is to be changed in a way not known here: {', '.join(map(str, pending))}")
    if "conj" in pending:
        tensor = tensor.conj_physical()
    return tensor.neg() if "neg" in pending else tensor


def rebuild_new_dtype(
    storage: Tensor,
    offset: int,
    size: tuple,
    stride: tuple,
    requires_grad: bool,
    hooks: Mapping,
    dtype: torch.dtype,
    metadata: Mapping[str, bool] | None = None,
) -> Tensor:
    return rebuild_tensor(storage.view(dtype), offset, size, stride, requires_grad, hooks, metadata)


def rebuild_parameter(data: Tensor, *_: object) -> Tensor:
    return data


KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("__builtin__", "set"): set,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): rebuild_new_dtype,
    ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): rebuild_parameter,
}


class TensorUnpickler(pickle._Unpickler):  # the one in Python: C's allocates whatever a damaged file asks for
    """Reads one pickle of tensors and containers.

    Args:
        storage: (dtype, key, number of elements) -> those elements, a flat tensor.
        only_tensors: replace all other objects by a ``Placeholder``; otherwise they raise ``Refused``.
    """

    dispatch = {
        code: step
        for code, step in pickle._Unpickler.dispatch.items()
        if code not in {name[0] for name in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.BYTEARRAY8)}
    }

    def __init__(self, file: BinaryIO, storage: Callable[[torch.dtype, str, int], Tensor], only_tensors: bool):
        super().__init__(file, encoding="latin1")  # of Python 2's strings, which are key names
        self.storage, self.only_tensors = storage, only_tensors
        self.tuples: dict[int, tuple[int, tuple]] = {}  # by id: how many elements, shared ones counted again; itself

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        if module.partition(".")[0] == "torch" and name in DTYPES:
            return DTYPES[name]
        if self.only_tensors:
            return Placeholder
        raise Refused(f"{module}.{name}")

    def persistent_load(self, saved: tuple) -> object:
        kind, *rest = saved
        if kind == "module":  # a class, with its source code
            return rest[0]
        dtype, key, _, numel, *views = rest
        flat = self.storage(dtype, key, numel)
        for _, start, length in filter(None, views):
            flat = flat[start : start + length]
        return flat

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Placeholder):
            self.stack[-1].state = state

    dispatch[pickle.BUILD[0]] = load_build

    def counting(step: Callable[["TensorUnpickler"], None]) -> Callable[["TensorUnpickler"], None]:
        """Refuse tuples that share tuples deeply: to hash one, as a key, is to walk through all of them."""

        def load(self: "TensorUnpickler") -> None:
            step(self)
            made = self.stack[-1]
            inside = sum(self.tuples.get(id(item), (1, ()))[0] for item in made)
            if inside > max(len(made), MOST_IN_KEY):
                raise ValueError("its tuples share tuples too deeply")
            self.tuples[id(made)] = 1 + inside, made

        return load

    for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
        dispatch[code[0]] = counting(dispatch[code[0]])


def read_file(path: Path, remedy: str = "fetch it again", only_tensors: bool = False) -> Mapping:
    """The content of a .pth or .safetensors file on the CPU; tensors and plain containers, never code.

    Args:
        path: the file, or the index (``*.index.json``) of one that was saved in parts.
        only_tensors: skip other objects; a pickled module becomes its state dict.

    Raises:
        FileNotFoundError: no such file, or no such part.
        ValueError: it is damaged (the message ends with ``remedy``), unsafe or no mapping.
    """
    if path.name.endswith(".index.json") and path.is_file():
        return read_parts(path, remedy, only_tensors)
    if path.is_dir():
        remedy = f"name it as --network hf:{path}" if (path / "config.json").exists() else "name a file in it"
        raise ValueError(f"{path} is a folder: {remedy}")
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}; docs/checkpoints.md says where released files are found")
    if part := PART.search(path.name):
        index = path.with_name(PART.sub("", path.name) + ".index.json")
        if index.exists():
            raise ValueError(f"{path} is one of {int(part[1])} parts of a file: give {index}")
    return read_one(path, remedy, only_tensors)


def read_one(path: Path, remedy: str, only_tensors: bool) -> Mapping:
    """Like ``read_file``, for a single file."""
    try:
        with path.open("rb") as file:
            content = read(file, only_tensors)
        count_elements(content, {})
    except Refused as error:
        raise ValueError(
            f"{path} is refused: it holds more than tensors ({error}) and could run code. "
            f"python -m segdistill.network convert {path} OUT.pth reads its tensors alone and runs nothing"
        ) from None
    except Foreign as error:
        raise ValueError(f"{path} cannot be read: it is {error}: {remedy}") from None
    except Exception as error:  # damaged bytes break a reader in any way
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read: it is truncated or damaged ({why}): {remedy}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content


def read_parts(index: Path, remedy: str, only_tensors: bool) -> dict[str, Tensor]:
    """Read a file that was saved in parts, with an index, as by Hugging Face."""
    try:
        place_of, parts = places_in(index), parts_of(index)
        if not parts or any(part.parent != index.parent for part in parts):
            raise ValueError("a part is no file beside it")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of a file in parts ({error}): {remedy}") from error
    content = {}
    for part in parts:
        if not part.is_file():
            raise FileNotFoundError(f"{index} names {part.name}, which is not beside it: {remedy}")
        content |= read_one(part, remedy, only_tensors)
    if absent := sorted(place_of.keys() - content.keys()):
        raise ValueError(f"{index} names {len(absent)} entries that its parts lack ({shown(absent)}): {remedy}")
    return content


def places_in(index: Path) -> dict[str, str]:
    """The part of each entry."""
    return dict(json.loads(index.read_text())["weight_map"])


def parts_of(path: Path) -> list[Path]:
    """The files that an index names; of any other file none."""
    if not path.name.endswith(".index.json"):
        return []
    return [path.with_name(name) for name in sorted(set(places_in(path).values()))]


def count_elements(value: object, known: dict[int, int], level: int = 0) -> int:
    """Number of elements of nested containers, shared ones counted each time.

    Raises: ValueError for containers nested so deeply that walking through them would not end.
    """
    if isinstance(value, Mapping):
        items = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set):
        items = value
    else:
        return 1
    if id(value) not in known:
        if level > MOST_LEVELS:
            raise ValueError(f"containers are nested deeper than {MOST_LEVELS} levels, or hold themselves")
        known[id(value)] = 1 + sum(count_elements(item, known, level + 1) for item in items)
        if known[id(value)] > MOST_ELEMENTS:
            raise ValueError(f"containers share containers so deeply that it has more than {MOST_ELEMENTS} elements")
    return known[id(value)]


def read(file: BinaryIO, only_tensors: bool) -> object:
    """The content of a file in the format that its first bytes tell. Raises: anything, if it is damaged."""
    head = file.read(512)
    file.seek(0)
    if head.startswith(b"PK"):
        content = read_zip(file, only_tensors)
    elif head.startswith(STREAM):
        content = read_stream(file, only_tensors)
    elif head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000:  # what safetensors allows a header
        from safetensors.torch import load_file

        return load_file(file.name)
    elif STREAM.startswith(head) and head:
        raise EOFError("it ends in its first bytes")
    else:
        check_foreign(head)
        raise Foreign(f"in no format known here; its first bytes are {head[:8].hex(' ')}")
    if not only_tensors:
        return content
    if isinstance(content, Placeholder):
        return state_dict_of(content)
    return {key: state_dict_of(value) if is_module(value) else value for key, value in content.items()}


def check_foreign(head: bytes) -> None:
    """Raise Foreign if the first bytes are those of another known kind of file."""
    start = head.lstrip().lower()
    for first, kind in OTHERS.items():
        if start.startswith(first):
            raise Foreign(kind)
    if not head:
        raise Foreign("empty")
    if head[257:262] == b"ustar":
        raise Foreign("a tar archive, to be unpacked first")
    text = head.decode("ascii", "replace")
    if text.isascii() and text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        raise Foreign(f"a text file, which begins {text[:40]!r}")


def read_zip(file: BinaryIO, only_tensors: bool) -> object:
    """torch.save's format since PyTorch 1.6: a pickle and a record a storage, whose checksums are verified."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if twice := sorted(name for name, count in collections.Counter(names).items() if count > 1):
            raise ValueError(f"it names {len(twice)} records twice: {shown(twice)}")
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if any(name.endswith("/constants.pkl") for name in names):
            raise Foreign("a TorchScript program; save the state_dict() of the model that it was made from")
        if len(pickles) != 1:
            raise Foreign(f"a zip archive that PyTorch did not write (it holds {', '.join(names[:3]) or 'nothing'})")
        if any(record.compress_type for record in archive.infolist()):
            raise Foreign("a compressed zip archive, which PyTorch never writes")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != sys.byteorder.encode():
            raise Foreign("of the other byte order")

        @functools.cache
        def storage(dtype: torch.dtype, key: str, numel: int) -> Tensor:
            record = archive.getinfo(f"{folder}data/{key}")
            if record.file_size != numel * dtype.itemsize:
                raise ValueError(f"record {record.filename} is not of {numel} {dtype}")
            return (
                torch.frombuffer(bytearray(archive.read(record)), dtype=dtype) if numel else torch.empty(0, dtype=dtype)
            )

        return TensorUnpickler(io.BytesIO(archive.read(pickles[0])), storage, only_tensors).load()


def read_stream(file: BinaryIO, only_tensors: bool) -> object:
    """torch.save's format before PyTorch 1.6: pickles, of which the fourth is the content, then the storages.

    The content is read twice, since it comes before the storages and has their types.
    """
    size = os.fstat(file.fileno()).st_size
    storages = {}

    def blank(dtype: torch.dtype, key: str, numel: int) -> Tensor:
        return storages.setdefault(key, torch.empty(numel, dtype=dtype, device="meta"))

    def plain(storage: Callable) -> object:
        try:
            return TensorUnpickler(file, storage, only_tensors).load()
        except Refused:
            if file.read(1):
                raise
            raise EOFError("it ends in the middle of a name") from None

    for _ in ("magic number", "version", "sizes of C's types"):
        plain(blank)
    start = file.tell()
    plain(blank)
    for key in plain(blank):
        flat = storages[key]
        numel = int.from_bytes(file.read(8), "little")
        if numel != flat.numel() or numel * flat.itemsize > size - file.tell():
            raise EOFError(f"storage {key} is not whole")
        data = bytearray(file.read(numel * flat.itemsize))
        storages[key] = torch.frombuffer(data, dtype=flat.dtype) if numel else torch.empty(0, dtype=flat.dtype)
    file.seek(start)
    return plain(lambda dtype, key, numel: storages[key])


def is_module(value: object) -> bool:
    return isinstance(value, Placeholder) and isinstance(value.state, Mapping) and "_modules" in value.state


def state_dict_of(module: Placeholder, known: dict[int, dict] | None = None, level: int = 0) -> dict[str, Tensor]:
    """The parameters and buffers of a pickled nn.Module, named as its state_dict() would.

    Args:
        known: those of the modules met so far, by id.

    Raises: ValueError for modules nested or shared in an impossible way.
    """
    known = {} if known is None else known
    if id(module) in known:
        return known[id(module)]
    state = module.state
    entries = {**state["_parameters"], **state["_buffers"]}
    hidden = state.get("_non_persistent_buffers_set") or ()
    found = {key: value for key, value in entries.items() if value is not None and key not in hidden}
    for name, child in state["_modules"].items():
        found |= {f"{name}.{key}": value for key, value in state_dict_of(child, known, level + 1).items()}
    if level > MOST_LEVELS or len(found) > MOST_ELEMENTS // 100:
        raise ValueError("modules are nested in each other as in no network")
    known[id(module)] = found
    return found
