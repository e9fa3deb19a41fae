"""One contract for every network of the registry: a new one is tested by being registered."""

import pytest
import torch

from segdistill.network import NETWORKS, build_network
from segdistill.network.base import freeze_idle

NUM_CLASSES = 5
OPTIONS = {"pspnet": [{"backbone": "resnet18_v1s"}, {"backbone": "resnet50_v1s"}]}
CASES = [(name, options) for name in NETWORKS for options in OPTIONS.get(name, [{}])]
each_network = pytest.mark.parametrize(("name", "options"), CASES)


def build(name, options):
    torch.manual_seed(0)
    return build_network(name, NUM_CLASSES, **options)


@each_network
@pytest.mark.parametrize("size", [(64, 64), (65, 97), (48, 71)])
def test_features_have_the_declared_channels_and_strides_at_any_size(name, options, size):
    network = build(name, options).eval()
    with torch.no_grad():
        output = network(torch.randn(1, 3, *size), features=network.features)
    assert output.features.keys() == network.features.keys() >= {"context", "logits", "layer3", "layer3.pre"}
    assert torch.equal(output.logits, output.features["logits"])
    for key, (channels, stride) in network.features.items():
        expected = [-(-side // stride) for side in size]
        assert output.features[key].shape[:2] == (1, channels), key
        assert all(abs(a - b) <= 1 for a, b in zip(output.features[key].shape[2:], expected, strict=True)), key


@each_network
def test_a_map_before_its_activation_becomes_the_map(name, options):
    network = build(name, options).eval()
    with torch.no_grad():
        images = torch.randn(1, 3, 64, 64)
        output = network(images, features=("layer3", "layer3.pre"))
        positive = output.features["layer3.pre"] > 0
        torch.testing.assert_close(output.features["layer3"][positive], output.features["layer3.pre"][positive])
        assert (output.features["layer3.pre"] < 0).any()
        assert torch.equal(network(images, features=("layer3",)).features["layer3"], output.features["layer3"])
    assert network.norm_before("layer3.pre").num_features <= network.features["layer3.pre"].channels


@each_network
def test_what_nothing_asks_for_is_frozen_and_the_rest_is_not(name, options):
    network = build(name, options).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    idle = set(freeze_idle(network, {"layer2"}))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    network(torch.randn(2, 3, 64, 64), ("layer2",)).features["layer2"].sum().backward()
    for key, value in network.named_parameters():
        assert (value.grad is None) == (key in idle) == (not value.requires_grad), key


@each_network
def test_only_the_asked_features_are_returned(name, options):
    network = build(name, options).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 64, 64)).features == {}
        assert set(network(torch.randn(1, 3, 64, 64), features=("context",)).features) == {"context"}


@each_network
def test_an_unknown_feature_is_an_error_that_lists_the_known_ones(name, options):
    with pytest.raises(ValueError, match="layer3"):
        build(name, options)(torch.randn(1, 3, 64, 64), features=("layer9",))


@each_network
def test_the_classifier_reads_context(name, options):
    network = build(name, options).eval()
    output = network(torch.randn(1, 3, 64, 64), features=("context",))
    (gradient,) = torch.autograd.grad(output.logits.sum(), output.features["context"])
    assert gradient.abs().sum() > 0


@each_network
def test_gradients_reach_every_parameter(name, options):
    network = build(name, options).train()
    logits = [key for key in network.features if key.endswith("logits")]
    output = network(torch.randn(2, 3, 64, 96), logits)
    sum(output.features[key].square().mean() for key in logits).backward()
    silent = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    assert not silent


@each_network
def test_eval_mode_does_not_change_statistics_and_train_mode_does(name, options):
    network = build(name, options)
    before = {key: value.clone() for key, value in network.named_buffers()}
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        network.eval()(images)
        assert all(torch.equal(before[key], value) for key, value in network.named_buffers())
        network.train()(images)
    assert not all(torch.equal(before[key], value) for key, value in network.named_buffers())


@each_network
def test_channels_last_gives_the_same_logits(name, options):
    network = build(name, options).eval()
    images = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        expected = network(images).logits
        actual = network.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(actual.logits, expected, rtol=1e-3, atol=1e-4)


@each_network
def test_saved_weights_rebuild_the_network_from_its_config(name, options, tmp_path):
    network = build(name, options).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    copy = build_network(**network.config).eval()
    copy.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(copy(images).logits, network(images).logits)


@pytest.mark.parametrize(
    ("name", "options", "num_classes", "count"),
    [
        ("pspnet", {"backbone": "resnet18_v1s"}, 19, 13_068_262),
        ("pspnet", {"backbone": "resnet101_v1s"}, 11, 70_429_142),
        ("espnet_c", {}, 19, 349_193),
    ],
)
def test_parameter_counts_are_the_originals(name, options, num_classes, count):
    with torch.device("meta"):
        network = build_network(name, num_classes, **options)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_activation_checkpointing_changes_memory_and_nothing_else():
    images = torch.randn(2, 3, 64, 64)
    results = []
    for checkpoint_blocks in (False, True):
        torch.manual_seed(0)
        network = build_network("pspnet", 5, checkpoint_blocks=checkpoint_blocks)
        torch.manual_seed(1)
        network(images).logits.square().mean().backward()
        results.append((network.backbone.conv1.weight.grad, network.backbone.layer2[0].bn1.running_mean))
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "unet"}, "pspnet"),
        ({"name": "pspnet", "backbone": "resnet7"}, "resnet18_v1s"),
        ({"name": "espnet", "backbone": "resnet18_v1s"}, "no option backbone; known: p, q, skip"),
        ({"name": "espnet", "norm": "group"}, "batch_norm"),
        ({"name": "espnet", "skip": "none"}, "fused"),
        ({"name": "espnet_c", "depth": 3}, "depth"),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_what_would_be_right(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_network(num_classes=5, **arguments)
