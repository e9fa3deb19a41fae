"""Whatever is in a file: its tensors, or one readable error, and nothing of it is run."""

import argparse
import builtins
import collections
import functools
import io
import json
import os
import pickle
import re
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from segdistill.network.weights.archive import KNOWN, read_file


def content():
    """A training checkpoint: shared and strided storages, counters, many dtypes."""
    base = torch.arange(24.0)
    return {
        "epoch": 3,
        "best": 0.5,
        "names": ("a", "b"),
        "state_dict": collections.OrderedDict(
            weight=base.view(4, 6),
            view=base[6:18].view(3, 4),
            transposed=torch.randn(3, 5).t(),
            last=torch.randn(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
            parameter=nn.Parameter(torch.randn(2)),
            counter=torch.tensor(7),
            empty=torch.zeros(0, 3),
            half=torch.randn(3).half(),
            brain=torch.randn(3).bfloat16(),
            double=torch.randn(3, dtype=torch.float64),
            flags=torch.tensor([True, False]),
            bytes=torch.tensor([1, 2], dtype=torch.uint8),
        ),
    }


def save(value, path, zipped=True):
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_what_is_saved_is_read_to_the_bit(tmp_path, zipped):
    path = save(content(), tmp_path / "a.pth", zipped)
    read, expected = read_file(path), torch.load(path, weights_only=True)
    tensors = expected.pop("state_dict")
    for key, value in read.pop("state_dict").items():
        assert torch.equal(value, tensors[key])
        assert (value.dtype, value.stride()) == (tensors[key].dtype, tensors[key].stride()), key
    assert read == expected


def test_safetensors_are_read_to_the_bit_whatever_the_file_is_called(tmp_path):
    tensors = {"a.weight": torch.randn(2, 3), "b": torch.arange(3)}
    for name in ("a.safetensors", "a.pth"):
        save_file(tensors, tmp_path / name)
        read = read_file(tmp_path / name)
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("kind", ["zip", "stream", "safetensors"])
def test_a_file_cut_anywhere_is_called_truncated(tmp_path, kind):
    path = tmp_path / "cut.safetensors" if kind == "safetensors" else tmp_path / "cut.pth"
    tensors = {"weight": torch.randn(7, 11), "bias": torch.randn(5)}
    save_file(tensors, path) if kind == "safetensors" else save(tensors, path, kind == "zip")
    whole = path.read_bytes()
    for length in [*range(1, 40), *range(40, len(whole), 61), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.\w+ cannot be read: it is .*: fetch it again") as caught:
            read_file(path)
        assert length < 9 or "truncated" in str(caught.value)


def zipped(members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def numpy_archive():
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.zeros(3))
    return buffer.getvalue()


FOREIGN = {
    "empty": (b"", "empty"),
    "one byte": (b"\x07", "no format known here; its first bytes are 07"),
    "html": (b"\n<!DOCTYPE html><html><title>404</title>", "an HTML page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12\n", "git-LFS pointer"),
    "json": (json.dumps({"message": "Not Found"}).encode(), "JSON"),
    "json after a blank line": (b"       \n" + b'{"message": 1}', "JSON"),
    "text": (b"hello" * 100, "a text file, which begins 'hellohello"),
    "bytes": (bytes(range(200, 256)), "no format known here; its first bytes are c8 c9"),
    "pickle": (pickle.dumps([1, 2]), "a pickle that PyTorch did not write"),
    "zip": (zipped({"a": "b"}), r"a zip archive that PyTorch did not write \(it holds a\)"),
    "npz": (numpy_archive(), r"a zip archive .*weight\.npy"),
    "torchscript": (zipped({"m/data.pkl": b"", "m/constants.pkl": b""}), "a TorchScript program"),
    "compressed": (zipped({"m/data.pkl": bytes(99)}, zipfile.ZIP_DEFLATED), "compressed"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "gzip"),
    "tar": (bytes(257) + b"ustar" + bytes(300), "a tar archive"),
}


@pytest.mark.parametrize(("data", "meaning"), FOREIGN.values(), ids=FOREIGN)
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path, data, meaning):
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"(?s)weights\.pth cannot be read: it is .*{meaning}") as caught:
        read_file(path)
    assert "weights_only" not in str(caught.value)
    with pytest.raises(ValueError, match=r"weights\.pth cannot be read"):
        read_file(path, only_tensors=True)


class Calls:
    """Pickled, a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


WRITE = "open('executed', 'w').close()"
TOUCH = b"(S'touch executed'\nt"
ATTACKS = {
    "os.system": pickle.dumps(Calls(os.system, "touch executed")),
    "eval": pickle.dumps(Calls(builtins.eval, WRITE)),
    "exec in a partial": pickle.dumps(Calls(functools.partial(builtins.exec, WRITE))),
    "nested": pickle.dumps(Calls(list, Calls(os.mkdir, "executed"))),
    "in a state dict": pickle.dumps({"state_dict": {"weight": Calls(os.mkdir, "executed")}}),
    "inst": b"(S'touch executed'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'touch executed'\no.",
    "dotted name": b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93" + TOUCH + b"R.",
    # Names that torch.load allows, and that call or set what they are given.
    "rebuild from type": b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nctorch\nTensor\n" + TOUCH + b"NtR.",
    "set on a function": b"ctorch._utils\n_rebuild_tensor_v2\n(dS'__code__'\ncos\nsystem\nsb.",
    "slots of a function": b"ctorch._utils\n_rebuild_tensor_v2\nN}S'__defaults__'\n(NNts\x86b.",
    "set on a container": b"ccollections\nOrderedDict\n)R}S'items'\ncos\nsystem\nsb.",
    "hooks": b"ctorch._utils\n_rebuild_parameter\n(NI00\n(dS'a'\ncos\nsystem\nstR.",
    "extension code": b"\x82\x01" + TOUCH + b"R.",
}


@pytest.mark.parametrize("program", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("form", ["zip", "stream", "bare"])
@pytest.mark.parametrize("only_tensors", [False, True])
def test_no_file_runs_anything(tmp_path, monkeypatch, program, form, only_tensors):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    stream = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
    forms = {"zip": zipped({"m/data.pkl": program}), "stream": stream + program + pickle.dumps([], 2), "bare": program}
    path.write_bytes(forms[form])
    before = [(function.__code__, function.__defaults__, vars(function)) for function in REBUILD]
    expected = re.escape(str(path)) + " (is refused|cannot be read|holds a)"
    with suppress(ValueError) if only_tensors else pytest.raises(ValueError, match=expected):
        read_file(path, only_tensors=only_tensors)
    assert not (tmp_path / "executed").exists()
    assert [(function.__code__, function.__defaults__, vars(function)) for function in REBUILD] == before


REBUILD = [function for function in KNOWN.values() if not isinstance(function, type)]


def test_a_refusal_names_what_was_found_and_the_way_out(tmp_path):
    path = save({"state_dict": {"weight": torch.ones(2)}, "args": argparse.Namespace(lr=0.1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"refused: .*argparse\.Namespace.*network convert \S*a\.pth OUT") as caught:
        read_file(path)
    assert "weights_only" not in str(caught.value)


class Config(dict):
    """A user's own."""


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_tensors_are_read_past_everything_else(tmp_path, zipped):
    weight = torch.randn(2, 3)
    extras = {"args": argparse.Namespace(lr=0.1), "config": Config(a=1), "score": np.float64(0.5)}
    path = save({"state_dict": {"weight": weight}, **extras, "epoch": 4}, tmp_path / "a.pth", zipped)
    read = read_file(path, only_tensors=True)
    assert torch.equal(read["state_dict"]["weight"], weight)
    assert read["epoch"] == 4


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize("wrap", [lambda module: module, lambda module: {"model": module, "epoch": 3}])
def test_a_pickled_module_becomes_its_state_dict(tmp_path, zipped, wrap):
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Sequential(nn.BatchNorm2d(4), nn.PReLU()))
    module.register_buffer("hidden", torch.zeros(2), persistent=False)
    read = read_file(save(wrap(module), tmp_path / "a.pth", zipped), only_tensors=True)
    read, expected = read.get("model", read), module.state_dict()
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[key], value) for key, value in expected.items())


def tensor_of(size, stride, numel=4, record=16, offset=0):
    """A file of one tensor whose sizes do not fit its storage."""
    storage = Calls(torch._utils._rebuild_tensor_v2, Persistent(numel), offset, size, stride, False, None)
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, 2)
    pickler.persistent_id = lambda value: value.id if isinstance(value, Persistent) else None
    pickler.dump({"weight": storage})
    return zipped({"m/data.pkl": buffer.getvalue(), "m/data/0": bytes(record)})


class Persistent:
    def __init__(self, numel):
        self.id = ("storage", torch.FloatStorage, "0", "cpu", numel)


@pytest.mark.parametrize(
    "sizes",
    [
        {"size": (10**12,), "stride": (1,)},
        {"size": (10**12,), "stride": (0,)},
        {"size": (2, 2), "stride": (10**9, 1)},
        {"size": (4,), "stride": (1,), "offset": 1},
        {"size": (-4,), "stride": (1,)},
        {"size": (4,), "stride": (1,), "numel": 10**12},
        {"size": (4,), "stride": (1,), "record": 12},
    ],
)
def test_a_tensor_beyond_its_storage_is_damage_and_takes_no_memory(tmp_path, sizes):
    (tmp_path / "whole.pth").write_bytes(tensor_of((2, 2), (2, 1)))
    assert torch.equal(read_file(tmp_path / "whole.pth")["weight"], torch.zeros(2, 2))
    (tmp_path / "wild.pth").write_bytes(tensor_of(**sizes))
    with pytest.raises(ValueError, match=r"wild\.pth cannot be read: it is truncated or damaged"):
        read_file(tmp_path / "wild.pth")


def test_a_damaged_record_is_found_by_its_checksum(tmp_path):
    path = save({"weight": torch.arange(100.0)}, tmp_path / "a.pth")
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(100.0).numpy().tobytes()) + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_file(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.imag(torch.complex(torch.ones(3), torch.arange(3.0)).conj()),
        torch._neg_view(torch.arange(3.0)),
        torch.complex(torch.ones(3), torch.arange(3.0)).conj(),
        torch.arange(-3.0, 3.0).to(torch.float8_e4m3fn),
        torch.tensor([0, 40000], dtype=torch.uint16),
    ],
    ids=["neg", "neg view", "conj", "float8", "uint16"],
)
def test_a_tensor_that_torch_saved_in_an_unusual_way_has_its_values(tmp_path, tensor, zipped):
    read = read_file(save({"weight": tensor}, tmp_path / "a.pth", zipped))["weight"]
    assert read.dtype == tensor.dtype
    assert read.tolist() == tensor.tolist()


def test_an_archive_that_names_a_record_twice_is_refused(tmp_path):
    path = save({"weight": torch.ones(2)}, tmp_path / "a.pth")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(next(name for name in archive.namelist() if name.endswith("/data/0")), bytes(8))
    with pytest.raises(ValueError, match=r"a\.pth cannot be read: .*names 1 records twice: \['a/data/0'\]"):
        read_file(path)


def shared(make, levels=60):
    value = make(())
    for _ in range(levels):
        value = make((value, value))
    return value


CYCLE = []
CYCLE.append(CYCLE)
DEEP_KEY = b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"K\x01s."
NESTED = {
    "lists": pickle.dumps({"config": shared(list)}),
    "30 levels": pickle.dumps({"config": shared(list, 30)}),
    "dicts": pickle.dumps({"config": shared(lambda pair: dict(enumerate(pair)))}),
    "tuples": pickle.dumps({"config": shared(tuple)}),
    "a key": DEEP_KEY,
    "itself": pickle.dumps({"config": CYCLE}),
}


@pytest.mark.parametrize("program", NESTED.values(), ids=NESTED)
def test_containers_that_share_containers_deeply_are_damage(tmp_path, program):
    (tmp_path / "a.pth").write_bytes(zipped({"m/data.pkl": program}))
    with pytest.raises(ValueError, match=r"a\.pth cannot be read: .*(nested|deeply)") as caught:
        read_file(tmp_path / "a.pth")
    assert len(str(caught.value)) < 400


def test_modules_that_share_modules_deeply_are_damage(tmp_path):
    module = nn.Linear(1, 1)
    for _ in range(40):
        module = nn.Sequential(module, module)
    path = save(module, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="modules are nested"):
        read_file(path, only_tensors=True)


def in_parts(folder, write, ending):
    """Two files and the index that says which entry is in which."""
    entries = {"a.weight": torch.randn(2), "b.weight": torch.randn(3)}
    place_of = {}
    for number, (key, value) in enumerate(entries.items(), 1):
        place_of[key] = f"model-{number:05}-of-00002.{ending}"
        write({key: value}, folder / place_of[key])
    index = folder / f"model.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": place_of}))
    return index, entries


@pytest.mark.parametrize(("write", "ending"), [(save_file, "safetensors"), (torch.save, "bin")])
def test_a_file_in_parts_is_read_by_its_index(tmp_path, write, ending):
    index, entries = in_parts(tmp_path, write, ending)
    read = read_file(index)
    assert read.keys() == entries.keys()
    assert all(torch.equal(read[key], value) for key, value in entries.items())
    part = tmp_path / f"model-00002-of-00002.{ending}"
    with pytest.raises(ValueError, match=rf"one of 2 parts of a file: give \S*model\.{ending}\.index\.json"):
        read_file(part)
    part.unlink()
    with pytest.raises(FileNotFoundError, match=rf"names model-00002-of-00002\.{ending}, which is not beside it"):
        read_file(index)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("", "is no index"),
        ("[]", "is no index"),
        ('{"weight_map": {"a": "../a.bin"}}', "is no index"),
        ('{"weight_map": {"a": 3}}', "is no index"),
        ('{"weight_map": {}}', "no file beside it"),
    ],
)
def test_a_damaged_index_is_named(tmp_path, text, meaning):
    (tmp_path / "a.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.safetensors\.index\.json .*{meaning}"):
        read_file(tmp_path / "a.safetensors.index.json")


def test_an_index_whose_parts_lack_an_entry_is_named(tmp_path):
    index, _ = in_parts(tmp_path, save_file, "safetensors")
    save_file({"c": torch.ones(1)}, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"names 1 entries that its parts lack \(\['b.weight'\]\)"):
        read_file(index)


def test_a_folder_is_called_one(tmp_path):
    with pytest.raises(ValueError, match="is a folder: name a file in it"):
        read_file(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"is a folder: name it as --network hf:{tmp_path}"):
        read_file(tmp_path)
