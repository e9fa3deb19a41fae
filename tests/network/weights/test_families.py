"""Who claims which file, and where in it the weights are."""

import json

import pytest
import torch
import torchvision
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
    "DataParallel under compilation, twice": lambda weights: prefixed(weights, "_orig_mod.module._orig_mod.module."),
    "a layer compiled": lambda weights: {key.replace("level3.", "level3._orig_mod."): weights[key] for key in weights},
    "FSDP": lambda weights: prefixed(weights, "_fsdp_wrapped_module."),
    "model.": lambda weights: {"state_dict": prefixed(weights, "model.")},
    "net. under DataParallel": lambda weights: prefixed(weights, "module.net."),
    "Lightning": lambda weights: {
        "state_dict": {**prefixed(weights, "model."), "criterion.weight": torch.ones(11)},
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "loops": {},
        "epoch": 3,
    },
    "losses beside": lambda weights: {**weights, "criterion.weight": torch.ones(11), "dice_loss.pos": torch.ones(1)},
    "moving average": lambda weights: {"n_averaged": torch.tensor(3), **prefixed(weights, "module.")},
    "moving average of DataParallel": lambda weights: {
        "n_averaged": torch.tensor(3),
        **prefixed(weights, "module.module."),
    },
}


@pytest.mark.parametrize("wrap", CONTAINERS.values(), ids=CONTAINERS)
def test_weights_are_found_at_the_top_or_one_level_down(state_dict, wrap):
    weights = recognise(wrap(state_dict), "a file")
    assert weights.state_dict.keys() == state_dict.keys()
    assert all(torch.equal(value, state_dict[key]) for key, value in weights.state_dict.items())


def test_what_stands_beside_the_network_is_told(state_dict):
    weights = recognise(CONTAINERS["Lightning"](state_dict), "a file")
    assert weights.skipped == ["criterion.weight"]


BESIDE = {
    "state dicts": lambda weights, average: {"model": weights, "model_ema": average},
    "prefixes": lambda weights, average: {**prefixed(weights, "net."), **prefixed(average, "model_ema.")},
    "prefixes in a checkpoint": lambda weights, average: {
        "state_dict": {**prefixed(weights, "model."), **prefixed(average, "model_ema.module.")}
    },
}


@pytest.mark.parametrize("wrap", BESIDE.values(), ids=BESIDE)
def test_one_of_several_networks_is_taken_by_name(state_dict, wrap):
    average = {key: value + 1 for key, value in state_dict.items()}
    content = wrap(state_dict, average)
    with pytest.raises(ValueError, match=r"several .*model_ema; .*network convert FILE OUT\.pth --entry model_ema"):
        recognise(content, "a file")
    weights = recognise(content, "a file", entry="model_ema")
    assert weights.state_dict.keys() == average.keys()
    assert all(torch.equal(value, average[key]) for key, value in weights.state_dict.items())
    with pytest.raises(ValueError, match=r"several|nothing under 'student'"):
        recognise(content, "a file", entry="student")


def test_a_segmentation_network_of_another_code_base_is_no_backbone():
    backbone = torchvision.models.resnet18(weights=None).state_dict()
    del backbone["fc.weight"], backbone["fc.bias"]
    for head in ("ppm.features.0.1.weight", "cls.4.weight", "seg.weight", "aux.0.weight", "decoder.0.weight"):
        with pytest.raises(ValueError, match=f"no family known here.* layer4.* {head.partition('.')[0]}: name its"):
            recognise({**backbone, head: torch.ones(2, 2, 1, 1)}, "a file")
    for head in ("head.weight", "classifier.4.weight"):
        with pytest.raises(ValueError, match=f"segmentation network of a code base not known here: {head}"):
            recognise({**backbone, head: torch.ones(2, 2, 1, 1)}, "a file")
    assert recognise({**backbone, "fc.weight": torch.ones(2, 2)}, "a file").family == "imagenet"


WRONG = {
    "two": ({"model": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}}, "several state dicts: model, ema"),
    "only in wrappers": ({"_orig_mod.a": torch.ones(1), "a": torch.ones(1)}, "names differ by what torch.compile"),
    "smp's": (
        {
            "encoder.conv1.weight": torch.ones(1),
            **dict.fromkeys(("segmentation_head.0.weight", "segmentation_head.0.bias"), torch.ones(1)),
        },
        "--network smp:unet --network-options encoder_name=resnet34, with its .*--teacher-network",
    ),
    "Hugging Face's": ({"decode_head.classifier.weight": torch.ones(1)}, "--network hf:ID"),
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
