"""Our own format: every field is checked, and what it says is computed without building it."""

import pytest
import torch

from segdistill.dataset.normalization import CAFFE, IMAGENET
from segdistill.network import NETWORKS, build_network
from segdistill.network.weights.checkpoint import export_weights, load_network
from segdistill.network.weights.families import recognise
from segdistill.network.weights.shapes import blueprint, class_dependent, count_classes

TINY = {"name": "espnet_c", "num_classes": 3, "p": 1, "q": 1}


@pytest.fixture(scope="module")
def content():
    return export_weights(build_network(**TINY), IMAGENET, (512, 1024), classes=("a", "b", "c"), step=7)


def test_what_is_written_is_read(content):
    weights = recognise(content, "best.pth")
    assert (weights.family, weights.config, weights.normalization) == ("segdistill", TINY, IMAGENET)
    assert (weights.classes, weights.input_size) == (("a", "b", "c"), (512, 1024))
    assert all(value is weights.state_dict[key] for key, value in content["state_dict"].items())


MISSING = object()
CONFIGS = [
    *({}, {"name": "espnet_c"}, {"num_classes": 3}, {**TINY, "norm": "batch_norm"}, {**TINY, 3: 4}),
    *({**TINY, "name": name} for name in ("vgg", ["espnet_c"], None, "")),
    *({**TINY, "num_classes": count} for count in ("3", 3.0, True, None, 0, -1, 4, 10**6, 10**12, 10**30)),
    *({**TINY, "q": blocks} for blocks in (0, -1, "8", None, [1], 1.5, 2, 10**7, 10**30)),
    *({**TINY, "unknown": 1}, {**TINY, "name": "pspnet"}, {"name": "espnet", "num_classes": 3, "skip": {}}),
]
FIELDS = {
    "format_version": [MISSING, "1", None, True, 2, [1]],
    "config": [MISSING, None, [], "espnet_c", *CONFIGS],
    "normalization": [
        *(MISSING, None, {}, [], "RGB", ("RGB", 1, 2, 3), ("RGB", (1, 2), (1, 2), 1), ("RGB", (1, 2, "3"), (1, 1, 1))),
        *(("rgb", (1, 2, 3), (1, 1, 1), 1), (1, (1, 2, 3), (1, 1, 1), 1), ("RGB", (1, 2, 3), (1, 1, 1), 1, 1)),
        *(("RGB", (1, 2, 3), (1, 0, 1), 1), ("RGB", (1, 2, 3), (1, 1, 1), 0), ("RGB", (1, 2, 3), (1, 1, 1), None)),
        *(("RGB", (1, 2, float("nan")), (1, 1, 1), 1), ("RGB", (1, 2, 3), (1, float("inf"), 1), 1)),
        ("RGB", (1, 2, torch.ones(1)), (1, 1, 1), 1),
    ],
    "state_dict": [MISSING, None, [], {}, {1: torch.ones(1)}, {"weight": 1.0}],
    "classes": ["abc", ("a", "b"), ("a", "b", 3), 3, {"a": 1}],
    "input_size": [512, (512,), (0, 1), (-1, 5), (1.5, 2), (True, True), "ab", (1, 2, 3)],
}
CASES = [(name, value) for name, values in FIELDS.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES)
def test_a_field_that_is_missing_or_wrong_is_named(content, name, value):
    damaged = {**content, name: value}
    if value is MISSING:
        del damaged[name]
    with pytest.raises(
        ValueError, match=rf"the state dict.*({name}|newer segdistill|does not fit|classes|channels|mean|std)"
    ):
        load_network(damaged)


@pytest.mark.parametrize("config", [{**TINY, "q": 10**7}, {**TINY, "num_classes": 10**7}])
def test_a_wild_config_is_refused_before_it_takes_time_or_memory(content, config, monkeypatch):
    monkeypatch.setattr("segdistill.network.weights.checkpoint.build_network", pytest.fail)  # the one that allocates
    with pytest.raises(ValueError, match=r"more than \d+ parameters|does not fit espnet_c"):
        load_network({**content, "config": config, "classes": None})


@pytest.mark.parametrize("name", NETWORKS)
def test_a_blueprint_is_the_network_without_its_memory(name):
    before = torch.get_rng_state()
    entries = blueprint({"name": name, "num_classes": 7}).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    network = build_network(name, 7)
    assert {key: (v.shape, v.dtype) for key, v in entries.items()} == {
        key: (v.shape, v.dtype) for key, v in network.state_dict().items()
    }
    assert all(value.is_meta for value in entries.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_entries_that_depend_on_the_class_count_are_those_of_another_shape(name):
    depending = class_dependent({"name": name, "num_classes": 5})
    shapes = [
        {k: v.shape for k, v in blueprint({"name": name, "num_classes": n}).state_dict().items()} for n in (5, 23, 150)
    ]
    assert depending >= {key for key in shapes[0] if len({tuple(entries[key]) for entries in shapes}) > 1}
    assert not any(key.startswith(("backbone.", "level1", "level2", "encoder.level")) for key in depending)
    assert depending


COUNTS = [(name, count) for name in NETWORKS for count in (1, 2, 11, 19, 21, 150) if name != "espnet" or count >= 5]


@pytest.mark.parametrize(("name", "num_classes"), COUNTS)
def test_the_class_count_is_read_off_the_shapes(name, num_classes):
    state_dict = blueprint({"name": name, "num_classes": num_classes}).state_dict()
    assert count_classes(state_dict, {"name": name}) == num_classes


def test_a_convention_is_what_it_was_to_the_last_bit(content):
    stored = export_weights(build_network(**TINY), CAFFE)
    assert recognise(stored, "best.pth").normalization == CAFFE


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "hf:nvidia/mit-b0"}, "would have to be fetched"),
        ({"name": "timm:hf_hub:someone/model"}, "would have to be fetched"),
        ({"name": "smp:unet", "encoder_name": "tu-hf_hub:someone/model"}, "would have to be fetched"),
    ],
)
def test_a_file_makes_nobody_fetch_a_model(content, config, message):
    with pytest.raises(ValueError, match=message):
        recognise({**content, "config": {"num_classes": 3, **config}}, "best.pth")


def test_published_weights_are_never_asked_for_by_a_file(content):
    nested = {"use_pretrained_backbone": True, "backbone_config": {"pretrained": True}, "hidden_size": 8}
    config = {"name": "hf:model", "num_classes": 3, "pretrained": True, "hf_config": nested}
    read = recognise({**content, "config": config}, "best.pth").config
    nothing = {"use_pretrained_backbone": False, "backbone_config": {"pretrained": False}, "hidden_size": 8}
    assert read == {"name": "hf:model", "num_classes": 3, "hf_config": nothing}


def test_a_message_about_a_wild_field_is_short(content):
    wild = {**TINY, "skip": [list(range(100))] * 1000}
    with pytest.raises(ValueError, match="builds no network") as caught:
        load_network({**content, "config": wild})
    assert len(str(caught.value)) < 1000
