"""One contract for every network of the registry: a new one is tested by being registered."""

import pytest
import torch

from segdistill.network import BACKBONES, NETWORKS, build_network

NUM_CLASSES = 5
CASES = [
    (name, backbone)
    for name, network in NETWORKS.items()
    for backbone in (("resnet18", "resnet50") if network.takes_backbone else (None,))
]
each_network = pytest.mark.parametrize(("name", "backbone"), CASES)


def build(name, backbone):
    torch.manual_seed(0)
    return build_network(name, NUM_CLASSES, backbone)


@each_network
@pytest.mark.parametrize("size", [(64, 64), (65, 97), (48, 71)])
def test_outputs_have_the_declared_channels_at_any_size(name, backbone, size):
    network = build(name, backbone).eval()
    with torch.no_grad():
        output = network(torch.randn(1, 3, *size), features=tuple(network.feature_channels))
    assert output.logits.shape[:2] == (1, NUM_CLASSES)
    assert output.aux_logits is None or output.aux_logits.shape == output.logits.shape
    assert {key: value.shape[1] for key, value in output.features.items()} == network.feature_channels
    for value in output.features.values():
        assert value.shape[2] / value.shape[3] == pytest.approx(size[0] / size[1], rel=0.25)


@each_network
def test_only_the_asked_features_are_returned(name, backbone):
    network = build(name, backbone).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 64, 64)).features == {}
        assert set(network(torch.randn(1, 3, 64, 64), features=("context",)).features) == {"context"}


@each_network
def test_an_unknown_feature_is_an_error_that_lists_the_known_ones(name, backbone):
    with pytest.raises(ValueError, match="layer3"):
        build(name, backbone)(torch.randn(1, 3, 64, 64), features=("layer9",))


@each_network
def test_the_classifier_reads_context(name, backbone):
    network = build(name, backbone).eval()
    output = network(torch.randn(1, 3, 64, 64), features=("context",))
    (gradient,) = torch.autograd.grad(output.logits.sum(), output.features["context"])
    assert gradient.abs().sum() > 0


@each_network
def test_gradients_reach_every_parameter(name, backbone):
    network = build(name, backbone).train()
    output = network(torch.randn(2, 3, 64, 96))
    loss = output.logits.square().mean()
    if output.aux_logits is not None:
        loss = loss + output.aux_logits.square().mean()
    loss.backward()
    silent = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    assert not silent


@each_network
def test_eval_mode_does_not_change_statistics_and_train_mode_does(name, backbone):
    network = build(name, backbone)
    before = {key: value.clone() for key, value in network.named_buffers()}
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        network.eval()(images)
        assert all(torch.equal(before[key], value) for key, value in network.named_buffers())
        network.train()(images)
    assert not all(torch.equal(before[key], value) for key, value in network.named_buffers())


@each_network
def test_channels_last_gives_the_same_logits(name, backbone):
    network = build(name, backbone).eval()
    images = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        expected = network(images).logits
        actual = network.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(actual.logits, expected, rtol=1e-3, atol=1e-4)


@each_network
def test_saved_weights_rebuild_the_network_from_its_config(name, backbone, tmp_path):
    network = build(name, backbone).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    copy = build_network(**network.config).eval()
    copy.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(copy(images).logits, network(images).logits)


@pytest.mark.parametrize(
    ("name", "backbone", "num_classes", "count"),
    [("pspnet", "resnet18", 19, 13_068_262), ("pspnet", "resnet101", 11, 70_429_142), ("espnet_c", None, 19, 349_193)],
)
def test_parameter_counts_are_the_originals(name, backbone, num_classes, count):
    with torch.device("meta"):
        network = build_network(name, num_classes, backbone)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_activation_checkpointing_changes_memory_and_nothing_else():
    images = torch.randn(2, 3, 64, 64)
    results = []
    for checkpoint_blocks in (False, True):
        torch.manual_seed(0)
        network = build_network("pspnet", 5, "resnet18", checkpoint_blocks=checkpoint_blocks)
        torch.manual_seed(1)
        network(images).logits.square().mean().backward()
        results.append((network.backbone.conv1.weight.grad, network.backbone.layer2[0].bn1.running_mean))
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "unet"}, "pspnet"),
        ({"name": "pspnet"}, "resnet18"),
        ({"name": "pspnet", "backbone": "resnet7"}, "resnet18"),
        ({"name": "espnet", "backbone": "resnet18"}, "no backbone"),
        ({"name": "espnet", "norm": "group"}, "batch_norm"),
        ({"name": "espnet", "skip": "none"}, "fused"),
        ({"name": "espnet_c", "depth": 3}, "depth"),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_what_would_be_right(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_network(num_classes=5, **arguments)


def test_every_backbone_is_known_to_the_registry():
    assert {"resnet18", "resnet50", "resnet101"} <= set(BACKBONES)
