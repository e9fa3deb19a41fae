"""One contract for every network of the registry: a new one is tested by being registered, as its defaults build it."""

import copy
import functools

import pytest
import torch
from torch import nn

from segdistill.network import NETWORKS, build_network
from segdistill.network.base import freeze_unused
from segdistill.network.settings import settings_of

NUM_CLASSES = 5
each_network = pytest.mark.parametrize("name", NETWORKS)


@functools.cache
def built(name):
    torch.manual_seed(0)
    return build_network(name, NUM_CLASSES)


def build(name):
    """A copy: drawing the weights costs more than a forward pass."""
    return copy.deepcopy(built(name))


def fill_norms(network):
    """BatchNorms as training leaves them, so that nothing is hidden by weights of 1 and biases of 0."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return network


@each_network
@pytest.mark.parametrize("size", [(64, 64), (65, 97), (48, 71)])
def test_features_have_the_declared_channels_and_strides_at_any_size(name, size):
    network = build(name).eval()
    with torch.no_grad():
        output = network(torch.randn(1, 3, *size), features=network.features)
    assert output.features.keys() == network.features.keys() >= {"context", "logits", "layer3"}
    assert torch.equal(output.logits, output.features["logits"])
    for key, (channels, stride) in network.features.items():
        expected = [-(-side // stride) for side in size]
        assert output.features[key].shape[:2] == (1, channels), key
        assert all(abs(a - b) <= 1 for a, b in zip(output.features[key].shape[2:], expected, strict=True)), key


@each_network
def test_the_smallest_image_is_answered_and_a_smaller_one_is_an_error_that_says_so(name):
    network = build(name).eval()
    least = network.MIN_SIDE
    for size in ((least, least), (least, 64), (64, least)):
        with torch.no_grad():
            assert network(torch.zeros(1, 3, *size), network.features).logits is not None
    for size in ((least - 1, 64), (64, least - 1)) if least > 1 else ():
        with pytest.raises(ValueError, match=f"at least {least} pixels a side, not {size[0]}x{size[1]}"):
            network(torch.zeros(1, 3, *size))


def test_a_network_on_a_backbone_lists_the_settings_that_it_shares():
    shared = {"backbone", "output_stride", "norm", "activation", "checkpoint_blocks"}
    for name in ("pspnet", "deeplabv3", "deeplabv3plus", "upernet"):
        settings = settings_of(NETWORKS[name])
        assert shared <= settings.keys()
        assert "num_classes" not in settings
        assert all(setting.meaning for setting in settings.values())


@each_network
def test_a_map_before_its_activation_becomes_the_map(name):
    network = fill_norms(build(name)).eval()
    images = torch.randn(1, 3, 64, 64)
    # Both are positive in the same places and equal there.
    pairs = [(f"{key}.pre", key) for key in ("layer3", "context") if f"{key}.pre" in network.features]
    with torch.no_grad():
        for before, after in pairs:
            features = network(images, features=(before, after)).features
            positive = features[before] > 0
            assert 0 < positive.sum() < positive.numel()
            torch.testing.assert_close(features[after][positive], features[before][positive])
            assert torch.equal(network(images, features=(after,)).features[after], features[after])


@each_network
def test_the_norm_before_a_map_shifts_it(name):
    network = build(name).eval()
    images = torch.randn(1, 3, 64, 64)
    for feature in network.features:
        if not feature.endswith(".pre"):
            with pytest.raises(ValueError, match=feature):
                network.norm_before(feature)
            continue
        with torch.no_grad():
            before = network(images, (feature,)).features[feature]
            network.norm_before(feature).bias += 1
            torch.testing.assert_close(network(images, (feature,)).features[feature], before + 1)


@each_network
def test_what_nothing_asks_for_is_frozen_and_the_rest_is_not(name):
    network = build(name).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    unused = set(freeze_unused(network, {"layer2"}))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    network(torch.randn(2, 3, 64, 64), ("layer2",)).features["layer2"].sum().backward()
    for key, value in network.named_parameters():
        assert (value.grad is None) == (key in unused) == (not value.requires_grad), key


@each_network
def test_only_the_asked_features_are_returned(name):
    network = build(name).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 64, 64)).features == {}
        assert set(network(torch.randn(1, 3, 64, 64), features=("context",)).features) == {"context"}


@each_network
def test_an_unknown_feature_is_an_error_that_lists_the_known_ones(name):
    with pytest.raises(ValueError, match="layer3"):
        build(name)(torch.randn(1, 3, 64, 64), features=("layer9",))


@each_network
def test_the_classifier_reads_context(name):
    network = build(name).eval()
    output = network(torch.randn(1, 3, 64, 64), features=("context",))
    (gradient,) = torch.autograd.grad(output.logits.sum(), output.features["context"])
    assert gradient.abs().sum() > 0


@each_network
def test_gradients_reach_every_parameter(name):
    network = build(name).train()
    logits = [key for key in network.features if key.endswith("logits")]
    output = network(torch.randn(2, 3, 64, 96), logits)
    sum(output.features[key].square().mean() for key in logits).backward()
    silent = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    assert not silent


@each_network
def test_eval_mode_does_not_change_statistics_and_train_mode_does(name):
    network = build(name)
    before = {key: value.clone() for key, value in network.named_buffers()}
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        network.eval()(images)
        assert all(torch.equal(before[key], value) for key, value in network.named_buffers())
        network.train()(images)
    assert not all(torch.equal(before[key], value) for key, value in network.named_buffers())


@each_network
def test_channels_last_gives_the_same_logits(name):
    network = build(name).eval()
    images = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        expected = network(images).logits
        actual = network.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(actual.logits, expected, rtol=1e-3, atol=1e-4)


@each_network
def test_saved_weights_rebuild_the_network_from_its_config(name, tmp_path):
    network = build(name).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    again = build_network(**network.config).eval()
    again.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(images).logits, network(images).logits)


@each_network
def test_in_place_norms_give_the_same_maps_and_gradients(name):
    """In float64: in float32 a rounding that takes a value past the kink of a ReLU moves a gradient by percents."""
    plain = fill_norms(build(name)).double().train()
    in_place = build_network(name, NUM_CLASSES, norm="inplace_abn").double().train()
    in_place.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    results = []
    for network in (plain, in_place):
        torch.manual_seed(1)
        maps = network(images, network.features).features
        torch.manual_seed(2)
        sum((value * torch.randn_like(value)).sum() / value[0].numel() for value in maps.values()).backward()
        results.append(maps | {key: value.grad for key, value in network.named_parameters()})
    for key, expected in results[0].items():
        error = (results[1][key] - expected).norm()
        assert error <= 1e-9 * expected.norm() + 1e-9, key


@pytest.mark.slow
@each_network
def test_compiled_networks_give_the_same_logits(name):
    network = build(name).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = network(images).logits
        compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(images).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "num_classes", "count"),
    [
        ("pspnet", {"backbone": "resnet18_v1s"}, 19, 13_068_262),
        ("pspnet", {"backbone": "resnet101_v1s"}, 11, 70_429_142),
        ("pspnet", {"backbone": "resnet50_v1s", "variant": "cirkd"}, 19, 39_637_478),
        ("pspnet", {"backbone": "resnet101_v1s", "variant": "cirkd", "width": 512}, 19, 68_072_166),
        ("pspnet", {"backbone": "mobilenetv2", "variant": "cirkd", "aux": False}, 19, 2_654_739),
        ("deeplabv3", {"backbone": "resnet18_v1s"}, 19, 13_607_974),
        ("deeplabv3", {"backbone": "resnet50_v1s", "width": 512}, 19, 60_092_134),
        ("deeplabv3", {"backbone": "resnet101_v1s"}, 19, 61_118_950),
        ("deeplabv3", {"backbone": "mobilenetv2", "aux": False}, 19, 3_233_171),
        ("deeplabv3plus", {"backbone": "resnet101"}, 21, 59_344_309),
        ("deeplabv3plus", {"backbone": "mobilenetv2"}, 21, 5_816_053),
        ("segformer", {"backbone": "mit_b1"}, 19, 13_682_387),
        ("espnet_c", {}, 19, 349_193),
    ],
)
def test_parameter_counts_are_the_originals(name, options, num_classes, count):
    with torch.device("meta"):
        network = build_network(name, num_classes, **options)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize(
    "name", [name for name, network in NETWORKS.items() if "checkpoint_blocks" in settings_of(network)]
)
def test_activation_checkpointing_changes_memory_and_nothing_else(name):
    images = torch.randn(2, 3, 64, 64)
    results = []
    for checkpoint_blocks in (False, True):
        network = build(name).train()
        network.backbone.checkpoint_blocks = checkpoint_blocks
        torch.manual_seed(1)
        network(images).logits.square().mean().backward()
        gradients = {key: value.grad for key, value in network.named_parameters() if value.grad is not None}
        results.append(gradients | dict(network.named_buffers()))
    for key, plain in results[0].items():
        torch.testing.assert_close(results[1][key], plain, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "unet"}, "pspnet"),
        ({"name": "pspnet", "backbone": "resnet7"}, "resnet18_v1s"),
        ({"name": "pspnet", "variant": "mine"}, "cirkd, skd"),
        ({"name": "deeplabv3", "backbone": "mobilenetv2", "activation": "leaky_relu"}, "no option activation"),
        ({"name": "deeplabv3", "backbone": "mit_b0"}, "no option norm, output_stride"),
        ({"name": "deeplabv3plus", "output_stride": 4}, "8, 16, 32"),
        ({"name": "espnet", "backbone": "resnet18_v1s"}, "no option backbone; known: p, q, skip"),
        ({"name": "espnet", "norm": "group"}, "batch_norm"),
        ({"name": "espnet", "skip": "none"}, "fused"),
        ({"name": "espnet_c", "layers": 3}, "layers"),
        ({"name": "espnet", "num_classes": 4}, "5 or more, or espnet_c"),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_what_would_be_right(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_network(**{"num_classes": 5, **arguments})
