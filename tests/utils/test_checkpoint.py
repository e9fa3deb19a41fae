import os
import pickle

import pytest
import torch
import torchvision

from segdistill.dataset.normalization import CAFFE, IMAGENET, Normalization
from segdistill.network import build_network
from segdistill.utils.checkpoint import (
    atomic_save,
    export_weights,
    load_network,
    load_weights,
    read_weights,
)
from segdistill.utils.weights.espnet import ESPNET_CAMVID, ESPNET_CITYSCAPES, SKD_ESPNET


def original_pspnet(backbone="resnet18_v1s", num_classes=5):
    """A state dict in the key names of SKD, without BatchNorm counters, as its in-place layers wrote it."""
    network = build_network("pspnet", num_classes, backbone=backbone)
    return {
        key.removeprefix("backbone."): value.clone()
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def original_espnet(num_classes, flat, **options):
    network = build_network("espnet", num_classes, **options)
    rename = {"encoder.classifier": "classifier_1", "encoder.": ""} if flat else {}
    state_dict = {}
    for key, value in network.state_dict().items():
        for old, new in rename.items():
            key = key.replace(old, new)
        state_dict[key] = value
    return state_dict


def test_our_own_file_brings_network_weights_and_convention(tmp_path):
    network = build_network("espnet", 7, p=1, q=2, skip="stem").eval()
    convention = Normalization("BGR", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 0.5)
    atomic_save(export_weights(network, convention, step=3), tmp_path / "best.pth")
    copy, report = load_network(tmp_path / "best.pth")
    assert (report.family, report.normalization, report.missing, report.skipped) == ("segdistill", convention, [], [])
    assert len(report.sha256) == 64
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(copy(images).logits, network(images).logits)


@pytest.mark.parametrize(
    ("num_classes", "flat", "family", "normalization"),
    [
        (11, True, "skd_espnet", SKD_ESPNET),
        (19, True, "skd_espnet", SKD_ESPNET),
        (12, False, "espnet", ESPNET_CAMVID),
        (20, False, "espnet", ESPNET_CITYSCAPES),
    ],
)
@pytest.mark.parametrize("skip", ["fused", "stem"])
def test_espnet_files_are_told_apart(num_classes, flat, family, normalization, skip):
    state_dict = original_espnet(num_classes, flat, p=2, q=3, skip=skip)
    for prefix in ("", "module."):
        weights = read_weights({prefix + key: value for key, value in state_dict.items()})
        assert (weights.family, weights.normalization) == (family, normalization)
        assert weights.config == {"name": "espnet", "num_classes": num_classes, "p": 2, "q": 3, "skip": skip}
        load_network({prefix + key: value for key, value in state_dict.items()})


@pytest.mark.parametrize("backbone", ["resnet18_v1s", "resnet50_v1s"])
def test_pspnet_files_of_the_originals_load(backbone):
    network, report = load_network(original_pspnet(backbone))
    assert (report.family, report.normalization, report.missing) == ("skd", CAFFE, [])
    assert network.config == {"name": "pspnet", "num_classes": 5, "backbone": backbone}


def test_the_toolbox_head_and_an_imagenet_classifier_are_recognised():
    state_dict = original_pspnet()
    toolbox = {key.replace("head.", "head.1.").replace("pspmodule.", "head.0."): v for key, v in state_dict.items()}
    toolbox |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    network, report = load_network(toolbox)
    assert sorted(report.skipped) == ["fc.bias", "fc.weight"]
    assert torch.equal(network.head.weight, state_dict["head.weight"])
    assert torch.equal(network.pspmodule.bottleneck[0].weight, state_dict["pspmodule.bottleneck.0.weight"])


def test_negative_gammas_of_in_place_layers_become_what_those_layers_computed():
    state_dict = original_pspnet()
    state_dict["bn1.weight"][:2] = torch.tensor([-0.5, 0.25])
    network, _ = load_network(state_dict)
    torch.testing.assert_close(network.backbone.bn1.weight[:2], torch.tensor([0.50001, 0.25001]))


def test_negative_gammas_of_batch_norm_keep_their_sign():
    state_dict = original_pspnet() | {"bn1.num_batches_tracked": torch.tensor(7)}
    state_dict["bn1.weight"][0] = -0.5
    network, _ = load_network(state_dict)
    assert network.backbone.bn1.weight[0] == -0.5


def test_an_imagenet_backbone_loads_into_its_place_and_nowhere_else():
    source = original_pspnet()
    backbone = {key: value for key, value in source.items() if not key.startswith(("pspmodule", "head", "dsn"))}
    network = build_network("pspnet", 19, backbone="resnet18_v1s")
    head = network.head.weight.clone()
    report = load_weights(network, {**backbone, "fc.weight": torch.zeros(1000, 512)})
    assert (report.family, report.normalization) == ("imagenet", CAFFE)
    assert all(key.startswith(("pspmodule.", "head.", "dsn.")) for key in report.missing)
    assert torch.equal(network.backbone.conv1.weight, source["conv1.weight"])
    assert torch.equal(network.head.weight, head)
    with pytest.raises(ValueError, match="backbone only"):
        load_network(backbone)


def test_torchvision_backbones_load_and_another_stem_is_an_error():
    state_dict = torchvision.models.resnet18(weights=None).state_dict()
    network = build_network("pspnet", 3, backbone="resnet18")
    report = load_weights(network, state_dict)
    assert (report.family, report.normalization, report.skipped) == ("imagenet", IMAGENET, ["fc.weight", "fc.bias"])
    assert torch.equal(network.backbone.conv1.weight, state_dict["conv1.weight"])
    with pytest.raises(ValueError, match=r"conv1\.weight"):
        load_weights(build_network("pspnet", 3, backbone="resnet18_v1s"), state_dict)


def test_another_class_count_is_an_error_unless_the_classifier_is_skipped():
    source = build_network("pspnet", 5, backbone="resnet18_v1s")
    network = build_network("pspnet", 3, backbone="resnet18_v1s")
    exported = export_weights(source, IMAGENET)
    with pytest.raises(ValueError, match=r"(?s)5 classes, the network 3.*head.bias: \(5,\) -> \(3,\)"):
        load_weights(network, exported)
    head = network.head.weight.clone()
    report = load_weights(network, exported, skip_classifier=True)
    assert sorted(report.skipped) == ["dsn.3.bias", "dsn.3.weight", "head.bias", "head.weight"]
    assert torch.equal(network.head.weight, head)
    assert torch.equal(network.backbone.conv1.weight, source.backbone.conv1.weight)


def test_keys_that_do_not_fit_are_named_and_nothing_is_loaded():
    network = build_network("espnet_c", 11, p=2, q=3)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"level3\.3.*not in the network"):
        load_weights(network, build_network("espnet_c", 11, p=2, q=4).state_dict())
    damaged = dict(network.state_dict())
    del damaged["b2.act.weight"]
    with pytest.raises(ValueError, match=r"b2\.act\.weight: missing"):
        load_weights(network, damaged)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_bad_files_are_errors_that_say_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"teacher\.pth"):
        load_network(tmp_path / "teacher.pth")
    path = tmp_path / "weights.pth"
    atomic_save(export_weights(build_network("espnet_c", 11), IMAGENET), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="truncated"):
        load_network(path)
    path.write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"weights\.pth"):
        load_network(path)
    torch.save({"alpha.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"no family.*alpha"):
        load_network(path)


class Payload:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="refused"):
        load_network(tmp_path / "evil.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ValueError, match=r"raw\.pth"):
        load_network(tmp_path / "raw.pth")
    assert not (tmp_path / "executed").exists()


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pth"
    atomic_save({"step": 1}, path)

    def fail(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=r"last\.pth.*intact"):
        atomic_save({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]
