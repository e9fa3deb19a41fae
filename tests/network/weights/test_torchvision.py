"""State dicts that torchvision saved load as they are and give torchvision's logits."""

import pytest
import torch
from torchvision.models import segmentation

from segdistill.dataset.normalization import IMAGENET
from segdistill.network import build_network, load_network, load_weights
from segdistill.network.base import resize
from segdistill.network.weights.families import FAMILIES

# Not ResNet-101, which is ResNet-50 with more blocks.
MODELS = ["deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large"]


def saved(model, num_classes, path, **settings):
    torch.manual_seed(0)
    built = getattr(segmentation, model)(weights=None, weights_backbone=None, num_classes=num_classes, **settings)
    torch.save(built.state_dict(), path)
    return built.eval()


@pytest.mark.parametrize(
    "model", [pytest.param(model, marks=pytest.mark.slow if model == "fcn_resnet50" else ()) for model in MODELS]
)
def test_the_logits_are_torchvision_s_before_they_are_enlarged(model, tmp_path):
    built = saved(model, 21, tmp_path / "weights.pth")
    network, report = load_network(tmp_path / "weights.pth")
    assert (report.family, report.config["name"]) == ("torchvision", f"torchvision:{model}")
    assert (network.num_classes, report.normalization, report.missing) == (21, IMAGENET, [])
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        expected = built.classifier(read(built.backbone(images)))
        assert torch.equal(network(images).logits, expected)


def read(maps):
    """What a head of torchvision reads of its backbone's maps: all of them by name, or the one called out."""
    return maps.get("out", maps)


def test_the_auxiliary_head_is_there_if_the_file_has_it(tmp_path):
    built = saved("deeplabv3_mobilenet_v3_large", 3, tmp_path / "weights.pth", aux_loss=True)
    network, _ = load_network(tmp_path / "weights.pth")
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = network(images, ("aux_logits",)).features
        expected = built(images)["aux"]
    enlarged = torch.nn.functional.interpolate(maps["aux_logits"], size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarged, expected)
    saved("deeplabv3_mobilenet_v3_large", 3, tmp_path / "without.pth")
    assert "aux_logits" not in load_network(tmp_path / "without.pth")[0].features


def test_another_class_count_leaves_the_classifier_alone_if_asked(tmp_path):
    saved("lraspp_mobilenet_v3_large", 21, tmp_path / "weights.pth")
    network = build_network("torchvision:lraspp_mobilenet_v3_large", 11)
    with pytest.raises(ValueError, match="the file has 21 classes, the network 11"):
        load_weights(network, tmp_path / "weights.pth")
    report = load_weights(network, tmp_path / "weights.pth", skip_classifier=True)
    assert sorted({key.rsplit(".", 1)[0] for key in report.skipped}) == [
        "classifier.high_classifier",
        "classifier.low_classifier",
    ]
    assert resize(network.eval()(torch.randn(1, 3, 64, 64)).logits, (64, 64)).shape == (1, 11, 64, 64)


@pytest.mark.parametrize("model", MODELS)
def test_no_other_family_claims_them(model):
    with torch.device("meta"):
        state_dict = getattr(segmentation, model)(weights=None, weights_backbone=None).state_dict()
    assert [name for name, family in FAMILIES.items() if family.claims(state_dict)] == ["torchvision"]
