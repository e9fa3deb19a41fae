"""Every network under every norm."""

import pytest
import torch
from torch import nn

from segdistill.network import NETWORKS, build_network


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_give_the_same_maps_with_every_norm(name):
    """In float64, for statistics of few pixels magnify roundings. In one process InPlaceABNSync is InPlaceABN."""
    torch.manual_seed(0)
    networks = [
        build_network(name, 5, norm=norm).double() for norm in ("batch_norm", "inplace_abn_sync", "sync_batch_norm")
    ]
    for module in networks[0].modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    for network in networks[1:]:
        network.load_state_dict(networks[0].state_dict())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for training in (True, False):
        results = []
        for network in networks:
            torch.manual_seed(1)
            with torch.no_grad():
                results.append(network.train(training)(images, features=tuple(network.features)).features)
        for maps in results[1:]:
            for feature, expected in results[0].items():
                assert torch.allclose(maps[feature], expected, atol=1e-8), feature
