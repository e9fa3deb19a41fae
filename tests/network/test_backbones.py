"""One contract for every backbone, and torchvision's own models as the reference of those that it has."""

import os
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from segdistill.network import build_network
from segdistill.network.backbone import BACKBONES, build_backbone
from segdistill.network.settings import settings_of
from segdistill.network.weights.checkpoint import load_weights, read_weights

# The least deep of each class.
SMALLEST = list({BACKBONES[name][0]: name for name in reversed(BACKBONES)}.values())
LAYERS = ("layer1", "layer2", "layer3", "layer4")


CASES = [
    (name, stride)
    for name, (backbone, *_) in BACKBONES.items()
    for stride in ((8, 16, 32) if "output_stride" in settings_of(backbone) else (None,))
]


@pytest.mark.parametrize(("name", "output_stride"), CASES)
def test_features_have_the_declared_channels_and_strides(name, output_stride):
    size = (65, 97)
    with torch.device("meta"):
        backbone = build_backbone(name, output_stride=output_stride)
        maps = backbone(torch.empty(2, 3, *size), backbone.features)
    assert maps.keys() >= backbone.features.keys() >= set(LAYERS)
    assert backbone.features["layer4"].stride == (output_stride or 32)
    for key, (channels, stride) in backbone.features.items():
        assert maps[key].shape[:2] == (2, channels), key
        assert maps[key].shape[2:] == tuple(-(-side // stride) for side in size), key


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "xception" else name for name in SMALLEST]
)
def test_every_block_can_be_recomputed_and_learns_the_same(name):
    torch.manual_seed(0)
    backbone, images = build_backbone(name).train(), torch.randn(2, 3, 64, 64)
    results = []
    for backbone.checkpoint_blocks in (False, True):
        backbone.zero_grad()
        torch.manual_seed(1)
        backbone(images, {"layer4"})["layer4"].square().mean().backward()
        results.append({key: value.grad for key, value in backbone.named_parameters() if value.grad is not None})
    assert results[0].keys() == results[1].keys()
    for key, plain in results[0].items():
        assert (results[1][key] - plain).norm() <= 1e-4 * plain.norm() + 1e-9, key


def test_what_a_backbone_does_not_know_is_an_error_that_says_what_it_knows():
    with pytest.raises(ValueError, match="mobilenetv2"):
        build_backbone("vgg16")
    with pytest.raises(ValueError, match="no option norm"):
        build_backbone("mit_b0", norm="batch_norm")
    with pytest.raises(ValueError, match="8, 16, 32"):
        build_backbone("xception", output_stride=4)
    with pytest.raises(ValueError, match=r"no BatchNorm before layer1\.pre"):
        build_backbone("mit_b0").norm_before("layer1.pre")


def layers_of(model: nn.Module, images: torch.Tensor, ends: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """The four maps of a torchvision model: its ResNets' layers, or the ``ends`` of its ``features``."""
    modules = [model.features[end] for end in ends] if ends else [getattr(model, name) for name in LAYERS]
    maps = {}
    for name, module in zip(LAYERS, modules, strict=True):
        module.register_forward_hook(lambda module, inputs, output, name=name: maps.__setitem__(name, output.clone()))
    model(images)
    return maps


def randomise(model: nn.Module) -> None:
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


@pytest.mark.parametrize(
    ("name", "options", "output_stride", "ends"),
    [
        ("resnet18", {}, 32, ()),
        ("resnet50", {"replace_stride_with_dilation": [False, True, True]}, 8, ()),
        ("mobilenet_v2", {}, 32, (3, 6, 13, 17)),
        ("mobilenet_v3_small", {}, 32, (1, 3, 8, 12)),
        ("mobilenet_v3_large", {}, 32, (3, 6, 12, 16)),
        ("mobilenet_v3_large", {"dilated": True}, 16, (3, 6, 12, 16)),
    ],
)
@torch.no_grad()
def test_torchvision_models_load_and_give_the_same_maps(name, options, output_stride, ends):
    model = getattr(torchvision.models, name)(weights=None, **options)
    randomise(model)
    check_same_maps(model, name.replace("_v", "v"), output_stride, ends)


@torch.no_grad()
def test_trained_mobilenetv2_loads_into_every_network_and_gives_torchvisions_maps():
    if not os.environ.get("SEGDISTILL_DATA"):
        pytest.skip("SEGDISTILL_DATA does not name the folder that holds imagenet_backbone/")
    (file,) = Path(os.environ["SEGDISTILL_DATA"], "imagenet_backbone").glob("mobilenet_v2*.pth")
    weights = read_weights(file)
    for name in ("deeplabv3", "deeplabv3plus", "pspnet", "upernet"):
        network = build_network(name, 3, backbone="mobilenetv2")
        report = load_weights(network, weights)
        assert report.family == "imagenet"
        assert torch.equal(
            network.backbone.blocks[17].conv[2].weight, weights.state_dict["backbone.blocks.17.conv.2.weight"]
        )
        assert not [key for key in report.missing if key.startswith("backbone.") and "num_batches" not in key]
    model = torchvision.models.mobilenet_v2(weights=None)
    model.load_state_dict(torch.load(file, weights_only=True))
    check_same_maps(model, "mobilenetv2", 32, (3, 6, 13, 17))


def check_same_maps(model: nn.Module, backbone: str, output_stride: int, ends: tuple[int, ...]) -> None:
    """Both in float64, where equal means equal up to rounding."""
    network = build_network("deeplabv3", 3, backbone=backbone, output_stride=output_stride)
    load_weights(network, model.state_dict())
    images = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    expected = layers_of(model.double().eval(), images, ends)
    actual = network.backbone.double().eval()(images, LAYERS)
    for name in LAYERS:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-9, atol=1e-9)
