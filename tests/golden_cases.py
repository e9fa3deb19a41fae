"""Reference vectors of the original implementations: the cases of an ``index.json`` and how its arrays are read.

The folder is ``tests/golden``, a small selection, or whatever ``GOLDEN_DIR`` names. Handlers are found by a case's
fields, never by its name, so that any set of the same format runs through them.
"""

import functools
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

GOLDEN_DIR = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parent / "golden")

SKD = "irfanICMLL/structure_knowledge_distillation"
CWD = "irfanICMLL/TorchDistiller"
IFVD = "YukangWang/IFVD"
ESPNET = "sacmehta/ESPNet"
CIRKD = "winycg/CIRKD"
DIST = "hunto/DIST_KD"
AKD = "AmirMansurian/KD"
AICSD = "AmirMansurian/AICSD"
MMRAZOR = "open-mmlab/mmrazor"


class Case(dict):
    """An entry of the index; fields are read as ``case["parameters"]``."""

    @property
    def parameters(self) -> dict:
        return self["parameters"]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return read_arrays(self["file"])

    def array(self, name: str) -> np.ndarray:
        """An argument of the case: of its ``inputs``, or of its own file."""
        if name in self.get("inputs", {}):
            entry = self["inputs"][name]
            return read_arrays(entry["file"])[entry["key"]]
        return self.arrays[name]


@functools.cache
def read_arrays(file: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN_DIR / file) as arrays:
        return dict(arrays)


@functools.cache
def load_cases(kind: str) -> list[Case]:
    path = GOLDEN_DIR / "index.json"
    if not path.is_file():
        raise FileNotFoundError(f"no golden cases: {path} does not exist (GOLDEN_DIR names the folder)")
    return [Case(case) for case in json.loads(path.read_text())["cases"] if case["kind"] == kind]


class Handlers:
    """Functions that run a kind of case, chosen by the case's fields."""

    def __init__(self, kind: str):
        self.kind = kind
        self.rules: list[tuple[Callable[[Case], bool], Callable]] = []

    def register(
        self, *repos: str, source_file: str = "", computes: str = "", parameters: Iterable[str] = ()
    ) -> Callable:
        """Decorator: the function runs cases from one of ``repos`` whose fields match the regular expressions and
        that have the ``parameters``."""

        def matches(case: Case) -> bool:
            return (
                case["source_repo"] in repos
                and re.search(source_file, case["source_file"]) is not None
                and re.search(computes, case["computes"]) is not None
                and set(parameters) <= set(case["parameters"])
            )

        def decorate(function: Callable) -> Callable:
            self.rules.append((matches, function))
            return function

        return decorate

    def find(self, case: Case) -> Callable | None:
        found = [function for matches, function in self.rules if matches(case)]
        assert len(found) <= 1, f"{case['name']} is claimed by {[function.__name__ for function in found]}"
        return found[0] if found else None

    def covered(self) -> list[Case]:
        return [case for case in load_cases(self.kind) if self.find(case)]

    def skip_uncovered(self) -> None:
        """Skip, saying how many cases have no handler, so that none is dropped in silence."""
        counts = Counter(case["source_repo"] for case in load_cases(self.kind) if not self.find(case))
        if counts:
            listed = ", ".join(f"{count} of {repo}" for repo, count in sorted(counts.items()))
            pytest.skip(f"{self.kind} cases without a handler: {listed}")


LOSSES = Handlers("loss")


class Result(NamedTuple):
    """What a handler of a loss computed: ``parameters`` in their original names, ``outputs`` named as the case's
    arrays."""

    loss: Tensor
    parameters: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}


def data_folder() -> Path:
    """The folder of real images and released weights; skips the test if the environment does not name it."""
    if not os.environ.get("SEGDISTILL_DATA"):
        pytest.skip("SEGDISTILL_DATA does not name the folder that holds espnet_pretrained/ and camvid/")
    return Path(os.environ["SEGDISTILL_DATA"])


def case_id(value: object) -> str | None:
    return value["name"] if isinstance(value, Case) else None


def hashed_array(key: str, shape: Iterable[int]) -> np.ndarray:
    """The value that the index's ``hashed_weight_rule`` gives to a state-dict entry, float64."""
    shape = tuple(shape)
    z = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF).standard_normal(shape)
    last = key.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return np.zeros(shape)
    if last == "running_mean":
        return 0.1 * z
    if last == "running_var":
        return 1 + 0.1 * np.abs(z)
    if last in ("weight_u", "weight_v"):
        return z / (np.sqrt((z**2).sum()) + 1e-12)
    if last == "gamma":
        return 0.5 + 0.1 * z
    if len(shape) >= 2:
        return z * np.sqrt(2 / np.prod(shape[1:]))
    if last == "bias":
        return 0.1 * z
    if last == "weight" and len(shape) == 1:
        return 1 + 0.1 * z
    raise ValueError(f"no rule for {key} of shape {shape}")


def hashed_state_dict(entries: Iterable[dict]) -> dict[str, Tensor]:
    """A state dict in the original names, from entries with ``key``, ``shape`` and perhaps ``alias_of``."""
    state_dict = {}
    for entry in entries:
        key = entry["key"]
        value = hashed_array(entry.get("alias_of", key), entry["shape"])
        dtype = torch.int64 if key.endswith("num_batches_tracked") else torch.float32
        state_dict[key] = torch.from_numpy(np.asarray(value)).to(dtype)
    return state_dict


def read_state_keys(case: Case) -> list[dict]:
    return json.loads((GOLDEN_DIR / case["state_keys"]).read_text())["state_dict"]


def subsample(x: Tensor, rule: str | None) -> Tensor:
    """Apply a rule such as ``g[:, :, ::3, ::3]``; None keeps everything."""
    if not rule:
        return x
    slices = re.search(r"\[(.*?)\]", rule)[1].split(",")
    return x[tuple(slice(*(int(part) if part.strip() else None for part in item.split(":"))) for item in slices)]


def assert_close(actual: Tensor, expected: np.ndarray, rtol: float, atol: float, what: str) -> None:
    expected = torch.from_numpy(np.asarray(expected)).double()
    torch.testing.assert_close(
        actual.detach().cpu().double(), expected, rtol=rtol, atol=atol, msg=lambda text: f"{what}: {text}"
    )
