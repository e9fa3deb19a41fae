"""Depth models of transformers, of random weights: what they answer becomes depth as their own library means it."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segdistill.network import build_network

transformers = pytest.importorskip("transformers")

STAGES = [f"stage{number}" for number in range(1, 5)]
PLAIN = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}
NECK = {"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 8}


def depth_anything(**settings):
    shape = {"image_size": 70, "patch_size": 14, "out_features": STAGES, "reshape_hidden_states": False}
    head = {"head_hidden_size": 8, "reassemble_hidden_size": 24}
    backbone = transformers.Dinov2Config(**PLAIN, **shape)
    return transformers.DepthAnythingConfig(backbone_config=backbone, **NECK, **head, **settings)


def glpn():
    shape = {"hidden_sizes": [8, 16, 16, 24], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2]}
    return transformers.GLPNConfig(decoder_hidden_size=8, **shape)


def built(config, tmp_path):
    config.architectures = [type(config).__name__.replace("Config", "ForDepthEstimation")]
    config.to_json_file(tmp_path / "config.json", use_diff=False)
    torch.manual_seed(0)
    return build_network(f"hf:{tmp_path / 'config.json'}", None).eval()


def answers(network):
    """The network's depth of two images, and the library's own answer."""
    images = (
        torch.randn(2, 3, 70, 84) if "depth_anything" in network.model.config.model_type else torch.randn(2, 3, 64, 96)
    )
    with torch.no_grad():
        own = network.model(images).predicted_depth[:, None]
        return network(images, ["depth"]).features["depth"], own


def test_relative_depth_is_the_inverse_of_the_models_disparity_up_to_scale_and_shift(tmp_path):
    network = built(depth_anything(), tmp_path)
    assert (network.num_classes, network.depth) == (0, (1.0, 100.0, False))
    depth, disparity = (x.double().flatten(1).numpy() for x in answers(network))
    for one, other in zip(depth, disparity, strict=True):
        scale, shift = np.polyfit(other, 1 / one, 1)
        assert scale > 0
        np.testing.assert_allclose(scale * other + shift, 1 / one, atol=1e-5)
        assert (one.min(), one.max()) == pytest.approx((1, 100), rel=1e-4)


@pytest.mark.parametrize("kind", ["depth_anything", "glpn"])
def test_metres_are_as_they_are(kind, tmp_path):
    config = glpn() if kind == "glpn" else depth_anything(depth_estimation_type="metric", max_depth=20)
    network = built(config, tmp_path)
    assert network.depth == ((0.1, 10.0, True) if kind == "glpn" else (0.2, 20.0, True))
    torch.testing.assert_close(*answers(network))


def test_depth_pro_is_scaled_by_its_field_of_view():
    from segdistill.network.external.hf_depth import by_field_of_view

    output = SimpleNamespace(predicted_depth=torch.full((1, 2, 2), 0.25), field_of_view=torch.tensor([90.0]))
    width_over_focal = 2 * math.tan(math.pi / 4)
    torch.testing.assert_close(by_field_of_view(output), torch.full((1, 1, 2, 2), 1 / (0.25 * width_over_focal)))


def test_a_model_of_depth_that_is_not_known_is_refused():
    from segdistill.network.external.hf_depth import meaning_of

    with pytest.raises(ValueError, match="prompt_depth_anything is no model of depth that is known here"):
        meaning_of(SimpleNamespace(model_type="prompt_depth_anything"))
