"""Who claims which file, and where in it the weights are."""

import json

import pytest
import torch
from golden_cases import GOLDEN_DIR
from torch import nn

from segdistill.network import build_network
from segdistill.network.weights.families import FAMILIES, recognise

STATE_KEYS = sorted((GOLDEN_DIR / "state_keys").glob("*.json"))


@pytest.mark.parametrize("path", STATE_KEYS, ids=[path.stem for path in STATE_KEYS])
def test_a_file_of_the_originals_is_claimed_by_one_family(path):
    keys = {entry["key"]: None for entry in json.loads(path.read_text())["state_dict"]}
    claiming = [name for name, family in FAMILIES.items() if family.claims(keys)]
    # The critic's keys are those of no network that is loaded.
    assert len(claiming) == ("discriminator" not in path.stem)


@pytest.fixture(scope="module")
def state_dict():
    return build_network("espnet_c", 11, p=1, q=1).state_dict()


def prefixed(state_dict, prefix):
    return {prefix + key: value for key, value in state_dict.items()}


CONTAINERS = {
    "bare": lambda weights: weights,
    "training checkpoint": lambda weights: {
        "epoch": 8,
        "state_dict": weights,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []},
        "best_pred": torch.tensor(0.7),
    },
    "model": lambda weights: {"model": weights, "iteration": 4},
    "DataParallel": lambda weights: {"student": prefixed(weights, "module.")},
    "compiled under DataParallel": lambda weights: prefixed(weights, "module._orig_mod."),
}


@pytest.mark.parametrize("wrap", CONTAINERS.values(), ids=CONTAINERS)
def test_weights_are_found_at_the_top_or_one_level_down(state_dict, wrap):
    weights = recognise(wrap(state_dict), "a file")
    assert weights.state_dict.keys() == state_dict.keys()
    assert all(torch.equal(value, state_dict[key]) for key, value in weights.state_dict.items())


WRONG = {
    "two": ({"model": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}}, "several state dicts: model, ema"),
    "none": ({"epoch": 3, "args": {"lr": 0.1}}, "holds no state dict.* it holds epoch: int, args: dict"),
    "nothing": ({}, "it holds nothing"),
    "too deep": ({"a": {"b": {"weight": torch.ones(1)}}}, "holds no state dict"),
    "numbers as keys": ({0: torch.ones(1)}, "holds no state dict"),
    "values that are no tensors": ({"weight": [1.0, 2.0]}, "holds no state dict"),
    "nobody's": ({"alpha.weight": torch.ones(1)}, r"no family known here; its keys begin alpha\.weight"),
    "a run's": (
        {"step": 3, "student": {"a": torch.ones(1)}, "losses": {}, "optimizer": {}},
        r"continues from \(last\.pth\).* best\.pth",
    ),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_content_that_is_no_network_s_is_an_error_that_says_what_it_is(content, message):
    with pytest.raises(ValueError, match=rf"a file: .*{message}"):
        recognise(content, "a file")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_that_only_begins_like_a_family_s_is_an_error(family, path_of):
    """Whatever entry is missing or without dimensions, the error is a ValueError, if there is one."""
    entries = json.loads(path_of(family).read_text())["state_dict"]
    state_dict = {entry["key"]: torch.zeros(entry["shape"]) for entry in entries}
    for key in list(state_dict)[::7] + list(state_dict)[-6:]:
        for damaged in ({k: v for k, v in state_dict.items() if k != key}, state_dict | {key: torch.tensor(1.0)}):
            try:
                recognise(damaged, "a file")
            except ValueError as error:
                assert "a file: it" in str(error)  # noqa: PT017


@pytest.fixture
def path_of():
    """A function that gives the keys of a file of a family."""

    def find(family):
        for path in STATE_KEYS:
            keys = {entry["key"]: None for entry in json.loads(path.read_text())["state_dict"]}
            if FAMILIES[family].claims(keys):
                return path
        pytest.skip(f"no keys of {family} are among the golden files")

    return find


def test_a_module_of_another_kind_is_nobody_s():
    with pytest.raises(ValueError, match="no family"):
        recognise(nn.LSTM(3, 4).state_dict(), "a file")
