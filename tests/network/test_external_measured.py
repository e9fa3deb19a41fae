"""Channels, strides and sizes of other libraries' models are what comes out of them; small random models."""

import json

import pytest
import torch

from segdistill.dataset.normalization import IMAGENET
from segdistill.network import build_network
from segdistill.network.cost import AttentionIsFused, SavedBytes
from segdistill.network.weights.checkpoint import atomic_save, export_weights, load_network

NUM_CLASSES = 5
VIT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 64}
VIT |= {"patch_size": 16}
SWIN = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4, "image_size": 64}
CONVNEXT = {"model_type": "convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
OUT = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}


@pytest.fixture
def hf(tmp_path):
    """A function that builds a network of transformers from a model type and its settings."""
    pytest.importorskip("transformers")

    def build(model_type, num_classes=NUM_CLASSES, **settings):
        path = tmp_path / f"{model_type}.json"
        path.write_text(json.dumps({"model_type": model_type, **settings}))
        torch.manual_seed(0)
        return build_network(f"hf:{path}", num_classes).eval()

    return build


def strides_of(network):
    return [network.features[f"layer{index}"].stride for index in (1, 2, 3, 4)]


@torch.no_grad()
def assert_declared(network, size):
    maps = network(torch.randn(1, 3, *size), network.features).features
    for name, (channels, stride) in network.features.items():
        assert maps[name].shape[1] == channels, name
        assert all(abs(a - b / stride) <= 1 for a, b in zip(maps[name].shape[2:], size, strict=True)), name


def test_an_overlapping_patch_kernel_is_no_grid():
    pytest.importorskip("timm")
    network = build_network("timm:pvt_v2_b0", 0).eval()
    assert network.multiple == 1
    assert strides_of(network) == [4, 8, 16, 32]
    assert_declared(network, (97, 131))


def test_a_model_of_one_size_gives_maps_of_any(hf):
    settings = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4]}
    network = hf("pvt", 0, image_size=64, **settings)
    assert network.only_side == 64
    assert strides_of(network) == [4, 8, 16, 32]
    assert_declared(network, (97, 131))


@pytest.mark.parametrize("kind", ["swin", "swinv2", "focalnet"])
def test_the_stages_of_a_swin_are_those_before_their_downsampling(kind, hf):
    settings = SWIN if kind != "focalnet" else {"embed_dim": 16, "depths": [1, 1, 1, 1], "image_size": 64}
    network = hf(kind, 0, **settings)
    assert strides_of(network) == [4, 8, 16, 32]
    assert [network.features[f"layer{index}"].channels for index in (1, 2, 3, 4)] == [16, 32, 64, 128]
    encoder = network.model.encoder
    stage = encoder.stages[0].layers[-1] if kind == "focalnet" else encoder.layers[0].blocks[-1]
    seen = []
    stage.register_forward_hook(lambda _, __, output: seen.append(output[0] if isinstance(output, tuple) else output))
    with torch.no_grad():
        layer1 = network(torch.randn(1, 3, 64, 64), ["layer1"]).features["layer1"]
    assert torch.equal(layer1.flatten(2).mT, seen[-1])


def test_the_classifier_is_what_makes_the_logits_whatever_other_layers_are_as_wide(hf):
    network = hf("upernet", 16, hidden_size=16, auxiliary_channels=16, backbone_config={**CONVNEXT, **OUT})
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        logits = network(images).logits
        theirs = network.model(images).logits
    assert network.reader.classifier == "decode_head.classifier"
    torch.testing.assert_close(torch.nn.functional.interpolate(logits, (64, 64), mode="bilinear"), theirs)


@pytest.mark.parametrize("kind", ["dinov3_vit", "vit_mae", "timm_wrapper"])
@pytest.mark.parametrize("is_training", [False, True])
def test_what_a_model_draws_at_random_besides_dropout_is_left_out(kind, is_training, hf):
    settings = {"architecture": "test_vit"} if kind == "timm_wrapper" else VIT
    network = hf(kind, 0, **settings).train(is_training)
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        pair = [network(images, ["layer4", "context"]).features for _ in range(2)]
    assert all(torch.equal(pair[0][name], pair[1][name]) for name in pair[0])


def test_tokens_of_a_masked_autoencoder_are_in_the_order_of_the_image(hf):
    network = hf("vit_mae", 0, **VIT)
    images = torch.zeros(1, 3, 64, 64)
    changed = images.clone()
    changed[..., :16, -16:] = 5
    with torch.no_grad():
        maps = [network(x, ["layer1"]).features["layer1"] for x in (images, changed)]
    assert (maps[0] - maps[1]).norm(dim=1).flatten().argmax() == 3


def test_a_model_that_reads_patches_is_refused_in_one_line(hf):
    with pytest.raises(ValueError, match=r"siglip2_vision_model\.json gives no maps of an image") as caught:
        hf("siglip2_vision_model", 0, **{key: value for key, value in VIT.items() if key != "image_size"})
    assert "\n" not in str(caught.value)


def test_a_config_that_fits_no_network_is_an_error_of_one_line(hf):
    with pytest.raises(ValueError, match=r"bit\.json is no configuration of Hugging Face") as caught:
        hf("bit", 0, layer_type="basic")
    assert "\n" not in str(caught.value)


def test_a_stage_of_no_channels_is_not_declared():
    pytest.importorskip("segmentation_models_pytorch")
    network = build_network("smp:pspnet", NUM_CLASSES, encoder_name="mit_b0")
    assert "layer2" not in network.features
    assert min(feature.channels for feature in network.features.values()) > 0


def test_a_network_that_reads_values_while_it_is_built_loads_again(tmp_path):
    """Checkpoints are read with a network on the meta device, which has no values."""
    pytest.importorskip("segmentation_models_pytorch")
    network = build_network("smp:segformer", NUM_CLASSES, encoder_name="mit_b0").eval()
    atomic_save(export_weights(network, IMAGENET), tmp_path / "best.pth")
    copy, _ = load_network(tmp_path / "best.pth")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(copy(images).logits, network(images).logits)


def test_what_attention_keeps_is_counted_as_its_kernels_keep_it(hf):
    network = hf("vit", 0, **VIT, hidden_act="relu", attn_implementation="sdpa").train()
    totals = {}
    for device in ("cpu", "meta"):
        network.to(device)
        with SavedBytes(network) as saved, AttentionIsFused() if device == "meta" else torch.enable_grad():
            loss = network(torch.zeros(1, 3, 256, 256, device=device), ["context"]).features["context"].sum()
        del loss
        totals[device] = saved.total
    assert totals["meta"] == pytest.approx(totals["cpu"], rel=0.01)
