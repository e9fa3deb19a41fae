"""What a training step of PSPNet-ResNet18 keeps for its backward pass, counted on meta tensors."""

import pytest
import torch

from benchmarks.memory import saved_bytes
from segdistill.network import build_network


def count(**options):
    with torch.device("meta"):
        network = build_network("pspnet", 19, backbone="resnet18_v1s", **options).train()
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
