"""Every network under every norm."""

import pytest
import torch
from torch import nn

from segdistill.network import NETWORKS, build_network


@pytest.mark.parametrize("norm", ["inplace_abn", "inplace_abn_sync", "sync_batch_norm"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_give_the_same_maps_with_every_norm(name, norm):
    torch.manual_seed(0)
    plain = build_network(name, 5)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    network = build_network(name, 5, norm=norm)
    network.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    names = tuple(plain.features)
    for training in (True, False):
        torch.manual_seed(1)
        expected = plain.train(training)(images, features=names)
        torch.manual_seed(1)
        output = network.train(training)(images, features=names)
        assert torch.allclose(output.logits, expected.logits, atol=1e-4)
        for feature in names:
            assert torch.allclose(output.features[feature], expected.features[feature], atol=1e-4), feature
