"""Predictors: logits at the images' size, whatever is done on the way."""

import pytest
import torch
import torch.nn.functional as F

from segdistill.network import build_network
from segdistill.utils.predict import resized, whole


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network("espnet_c", 5, p=1, q=1).eval()


def test_resized_shows_another_size_and_answers_at_the_images_own(network):
    images = torch.randn(2, 3, 48, 80)
    logits = resized(whole(network), (24, 40))(images)
    shown = F.interpolate(images, size=(24, 40), mode="bilinear", align_corners=False, antialias=False)
    expected = F.interpolate(network(shown).logits, size=(48, 80), mode="bilinear", align_corners=True)
    torch.testing.assert_close(logits, expected)
    assert not logits.requires_grad


def test_resized_to_the_images_own_size_is_the_predictor_itself(network):
    images = torch.randn(1, 3, 48, 80)
    torch.testing.assert_close(resized(whole(network), (48, 80))(images), whole(network)(images))
