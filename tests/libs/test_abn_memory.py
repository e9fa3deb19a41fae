"""What a training step of PSPNet-ResNet18 keeps for its backward pass, counted on meta tensors."""

import pytest
import torch
from torch import nn

from benchmarks.memory import saved_bytes
from network import NETWORKS, build_network


def count(**options):
    with torch.device("meta"):
        network = build_network("pspnet", 19, backbone="resnet18", **options).train()
        return saved_bytes(network, torch.empty(8, 3, 512, 512))


@pytest.fixture(scope="module")
def plain():
    return count()


def test_inplace_abn_keeps_at_most_0_72_of_batch_norm_and_relu(plain):
    assert count(norm="inplace_abn", activation="leaky_relu") <= 0.72 * plain


def test_placement_of_the_originals_saves_little(plain):
    assert 0.97 * plain <= count(norm="inplace_abn", activation="relu") <= plain


def test_checkpointing_the_blocks_keeps_at_most_0_65(plain):
    assert count(checkpoint_blocks=True) <= 0.65 * plain


def test_both_keep_at_most_0_45(plain):
    assert count(norm="inplace_abn", activation="leaky_relu", checkpoint_blocks=True) <= 0.45 * plain


@pytest.mark.parametrize("norm", ["inplace_abn", "inplace_abn_sync", "sync_batch_norm"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_give_the_same_maps_with_every_norm(name, norm):
    options = {"backbone": "resnet18"} if NETWORKS[name].takes_backbone else {}
    torch.manual_seed(0)
    plain = build_network(name, 5, **options)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    network = build_network(name, 5, norm=norm, **options)
    network.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    names = tuple(plain.feature_channels)
    for training in (True, False):
        torch.manual_seed(1)
        expected = plain.train(training)(images, features=names)
        torch.manual_seed(1)
        output = network.train(training)(images, features=names)
        assert torch.allclose(output.logits, expected.logits, atol=1e-4)
        for feature in names:
            assert torch.allclose(output.features[feature], expected.features[feature], atol=1e-4), feature
