import argparse
import math
import os
import pickle
import random

import pytest
import torch
import torchvision
from golden_cases import data_folder
from safetensors.torch import save_file
from torch import Tensor, nn

from segdistill.dataset.normalization import CAFFE, IMAGENET, Normalization
from segdistill.network import build_network
from segdistill.network.weights.checkpoint import (
    all_finite,
    atomic_save,
    convert,
    export_weights,
    load_network,
    load_weights,
    read_weights,
)
from segdistill.network.weights.espnet import ESPNET_CAMVID, ESPNET_CITYSCAPES, SKD_ESPNET


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


def test_skipping_the_classifier_skips_nothing_else():
    network = build_network("espnet", 6, p=1, q=1)
    exported = export_weights(build_network("espnet", 5, p=1, q=1), IMAGENET)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    report = load_weights(network, exported, skip_classifier=True)
    decoder = {key for key in before if not key.startswith("encoder.") or "classifier" in key}
    assert set(report.skipped) == {key for key in decoder if not key.endswith("num_batches_tracked")}
    for key, value in network.state_dict().items():
        assert torch.equal(value, (before if key in report.skipped else exported["state_dict"])[key]), key
    exported["state_dict"] = exported["state_dict"] | {"encoder.level1.conv.weight": torch.zeros(16, 3, 5, 5)}
    with pytest.raises(ValueError, match=r"encoder\.level1\.conv\.weight: \(16, 3, 5, 5\) -> \(16, 3, 3, 3\)"):
        load_weights(network, exported, skip_classifier=True)


def test_a_bare_state_dict_in_our_key_names_loads_where_the_network_is_given(tmp_path):
    source = build_network("pspnet", 5)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "bare.pth")
    network = build_network("pspnet", 5)
    report = load_weights(network, tmp_path / "bare.pth")
    assert_equal_weights(network, source)
    assert (report.config, report.normalization, report.missing) == (source.config, None, [])
    other = build_network("pspnet", 3)
    with pytest.raises(ValueError, match=r"5 classes, the network 3.*\n.*dsn"):
        load_weights(other, source.state_dict())
    assert sorted(load_weights(other, source.state_dict(), skip_classifier=True).skipped)[0] == "dsn.3.bias"
    with pytest.raises(ValueError, match="no family"):
        load_network(tmp_path / "bare.pth")
    with pytest.raises(ValueError, match=r"head\.bias: missing"):
        load_weights(network, {key: value for key, value in source.state_dict().items() if key != "head.bias"})


def assert_equal_weights(network, other):
    expected = other.state_dict()
    assert network.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


@pytest.fixture(scope="module")
def tiny_network():
    """An ESPNet-C with the 20 classes of the authors' Cityscapes files."""
    torch.manual_seed(0)
    return build_network("espnet_c", 20, p=1, q=1).eval()


FORMS = {
    "ours": lambda network, path: atomic_save(
        export_weights(network, ESPNET_CITYSCAPES, (512, 1024), counts_void=True), path
    ),
    "bare": lambda network, path: torch.save(network.state_dict(), path),
    "stream": lambda network, path: torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False),
    "training checkpoint": lambda network, path: torch.save(
        {"state_dict": network.state_dict(), "optimizer": torch.optim.Adam(network.parameters()).state_dict()}, path
    ),
    "DataParallel": lambda network, path: torch.save(nn.DataParallel(network).state_dict(), path),
    "safetensors": lambda network, path: save_file(network.state_dict(), path),
}


@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_weights_come_through_every_format_to_the_bit(tmp_path, tiny_network, write):
    write(tiny_network, tmp_path / "weights.pth")
    for path in (tmp_path / "weights.pth", tmp_path / "ours.pth"):
        network, report = load_network(path)
        assert_equal_weights(network, tiny_network)
        assert (report.normalization, report.input_size) == (ESPNET_CITYSCAPES, (512, 1024))
        assert report.counts_void
        if path.name == "weights.pth":
            convert(path, tmp_path / "ours.pth")


def test_the_report_says_in_one_line_what_the_file_was(tiny_network):
    _, report = load_network(tiny_network.state_dict())
    count = len(tiny_network.state_dict())
    assert str(report) == (
        f"espnet: {count} entries used, 0 skipped, 0 missing; 20 classes; input BGR, scale 0.003922; "
        "shown at 512x1024 (height x width)"
    )
    named = export_weights(tiny_network, IMAGENET, classes=[f"class{i}" for i in range(20)])
    assert "; 20 classes (class0, class1, class2," in str(load_network(named)[1])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_unsafe_file_is_refused_and_converts(tmp_path, tiny_network):
    source, output = tmp_path / "whole.pth", tmp_path / "ours.pth"
    torch.save({"model": nn.DataParallel(tiny_network), "args": argparse.Namespace(lr=0.1)}, source)
    with pytest.raises(ValueError, match=r"refused.*convert \S*whole\.pth OUT"):
        load_network(source)
    report = convert(source, output, classes=[str(i) for i in range(20)])
    network, ours = load_network(output)
    assert_equal_weights(network, tiny_network)
    assert (ours.classes, ours.config, report.family) == (tuple(map(str, range(20))), tiny_network.config, "espnet")


def test_a_described_state_dict_converts(tmp_path):
    source, output = tmp_path / "bare.pth", tmp_path / "ours.pth"
    bare = build_network("pspnet", 4)
    torch.save(bare.state_dict(), source)
    options = {"backbone": "resnet18_v1s"}
    with pytest.raises(ValueError, match="no family"):
        convert(source, output)
    with pytest.raises(ValueError, match=r"bare\.pth does not tell the colours"):
        convert(source, output, described={"name": "pspnet", **options})
    with pytest.raises(ValueError, match="has 4 classes, not 2"):
        convert(source, output, described={"name": "pspnet"}, classes=["a", "b"], normalization=CAFFE)
    with pytest.raises(ValueError, match="no family"):
        convert(source, output, described={"name": "espnet_c"}, normalization=CAFFE)
    assert not output.exists()
    convert(source, output, described={"name": "pspnet", **options}, normalization=CAFFE)
    network, report = load_network(output)
    assert_equal_weights(network, bare)
    assert (report.config, report.normalization) == ({"name": "pspnet", "num_classes": 4, **options}, CAFFE)


def test_a_file_of_another_network_than_described_does_not_convert(tmp_path, tiny_network):
    torch.save(tiny_network.state_dict(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth holds a espnet_c, not a pspnet"):
        convert(tmp_path / "a.pth", tmp_path / "b.pth", described={"name": "pspnet"})


def with_entry(change):
    """A writer of a file in which one entry is replaced."""

    def write(network, path):
        state_dict = network.state_dict()
        torch.save(state_dict | {"level1.conv.weight": change(state_dict["level1.conv.weight"])}, path)

    return write


def filled(value):
    def fill(weight):
        weight = weight.clone()
        weight[3, 1, 0, 2] = value
        return weight

    return fill


class Payload:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


WRONG = {
    "empty": (lambda network, path: path.touch(), "it is empty"),
    "truncated": (lambda network, path: (FORMS["ours"](network, path), os.truncate(path, 5000)), "truncated"),
    "html": (lambda network, path: path.write_text("<html>404</html>"), "an HTML page"),
    "lfs": (lambda network, path: path.write_text("version https://git-lfs.github.com/spec/v1"), "git-LFS pointer"),
    "list": (lambda network, path: torch.save([torch.ones(1)], path), "holds a list, not a state dict"),
    "code": (lambda network, path: torch.save({"state_dict": Payload()}, path), r"refused: .*\w+\.mkdir"),
    "bare code": (lambda network, path: path.write_bytes(pickle.dumps(Payload())), "pickle that PyTorch did not write"),
    "unknown": (lambda network, path: torch.save({"alpha.weight": torch.ones(1)}, path), r"no family.* alpha\.weight"),
    "NaN": (with_entry(filled(float("nan"))), r"level1\.conv\.weight: not finite"),
    "infinity": (with_entry(filled(float("-inf"))), r"level1\.conv\.weight: not finite"),
    "too large": (with_entry(lambda weight: weight.double() + 1e300), r"level1\.conv\.weight: not finite"),
    "integers": (with_entry(Tensor.long), r"level1\.conv\.weight: torch\.int64 where torch\.float32 belongs"),
    "booleans": (with_entry(Tensor.bool), r"level1\.conv\.weight: torch\.bool where"),
    "complex": (with_entry(lambda weight: weight + 0j), r"level1\.conv\.weight: torch\.complex64 where"),
    "shape": (with_entry(lambda weight: weight[:, :, 1:]), r"level1\.conv\.weight: \(16, 3, 2, 3\) -> \(16, 3, 3, 3\)"),
    "scalar": (with_entry(lambda weight: weight.sum()), r"level1\.conv\.weight: \(\) -> "),
}


@pytest.mark.parametrize(("write", "meaning"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_an_error_that_names_it_and_says_what_is_wrong(
    tmp_path, monkeypatch, tiny_network, write, meaning
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    write(tiny_network, path)
    with pytest.raises(ValueError, match=rf"(?s)weights\.pth.*{meaning}") as caught:
        load_network(path)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_missing_file_is_an_error_that_says_where_files_are_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint \S*teacher\.pth; docs/checkpoints\.md"):
        load_network(tmp_path / "teacher.pth")


def test_weights_of_another_precision_become_the_network_s(tiny_network):
    network, _ = load_network({key: value.double() for key, value in tiny_network.state_dict().items()})
    assert_equal_weights(network, tiny_network)


def test_a_damaged_file_is_an_error_or_differs_where_its_bytes_do(tmp_path, tiny_network):
    """Bytes flipped, overwritten and cut off at random, in both of PyTorch's formats; only the newer has checksums."""
    path, rng = tmp_path / "best.pth", random.Random(0)
    exported, originals, loaded = export_weights(tiny_network, IMAGENET), [], 0
    for zipped in (True, False):
        torch.save(exported, path, _use_new_zipfile_serialization=zipped)
        originals.append(path.read_bytes())
    for _ in range(200):
        original = rng.choice(originals)
        data = bytearray(original)
        for _ in range(rng.choice([0, 1, 1, 8])):
            data[rng.choice([rng.randrange(len(data)), rng.randrange(30_000)])] = rng.randrange(256)
        if data == original:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            network, _ = load_network(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            loaded += 1
            changed = sum(a != b for a, b in zip(data, original, strict=True))
            entries = zip(network.state_dict().values(), tiny_network.state_dict().values(), strict=True)
            assert sum((a != b).sum() for a, b in entries) <= changed
            assert all(value.isfinite().all() for value in network.state_dict().values())
    assert 10 < loaded < 150


@pytest.mark.parametrize("level", ["encoder", "decoder"])
def test_the_authors_cityscapes_files_are_shown_images_at_their_own_size(level):
    file = data_folder() / "espnet_pretrained" / level / "espnet_p_2_q_3.pth"
    assert load_network(file)[1].input_size == (512, 1024)


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


def test_a_plain_state_dict_of_a_library_loads_where_its_network_is_named(tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Unet("resnet18", encoder_weights=None, classes=7)
    torch.save(model.state_dict(), tmp_path / "unet.pth")
    with pytest.raises(ValueError, match=r"name its network, --network smp:unet --network-options encoder_name="):
        load_network(tmp_path / "unet.pth")
    network, report = load_network(
        tmp_path / "unet.pth", described={"name": "smp:unet"}, options=["encoder_name=resnet18"]
    )
    assert (report.family, report.skipped, report.missing) == ("smp", [], [])
    assert network.config == {"name": "smp:unet", "num_classes": 7, "encoder_name": "resnet18"}
    assert torch.equal(network.model.encoder.conv1.weight, model.encoder.conv1.weight)
    with pytest.raises(ValueError, match=r"unet\.pth .*does not fit smp:fpn|no family known"):
        load_network(tmp_path / "unet.pth", described={"name": "smp:fpn", "encoder_name": "resnet18"})


def test_float8_and_half_weights_become_the_network_s(tiny_network):
    for dtype in (torch.float16, torch.float8_e5m2):
        state_dict = {key: v.to(dtype) if v.is_floating_point() else v for key, v in tiny_network.state_dict().items()}
        network, _ = load_network(state_dict)
        assert all(torch.equal(network.state_dict()[key], value.float()) for key, value in state_dict.items())
    state_dict["level1.conv.weight"] = torch.full((16, 3, 3, 3), float("nan")).to(dtype)
    with pytest.raises(ValueError, match=r"level1\.conv\.weight: not finite"):
        load_network(state_dict)


def test_a_negative_variance_is_an_error(tiny_network):
    state_dict = tiny_network.state_dict()
    key = next(key for key in state_dict if key.endswith("running_var"))
    with pytest.raises(ValueError, match="a variance below 0"):
        load_network(state_dict | {key: -state_dict[key]})


def test_subnormal_weights_which_cpus_multiply_slowly_become_0(tiny_network):
    # By their bits: the tests compute without subnormal numbers, as commands do. The smallest normal one is 1 << 23.
    bits, minus = torch.tensor([1 << 23, (1 << 23) - 1, 1, 1 << 16], dtype=torch.int32), -(1 << 31)
    state_dict = tiny_network.state_dict()
    state_dict["level1.conv.weight"].view(-1)[:8].view(torch.int32).copy_(torch.cat([bits, bits + minus]))
    loaded = load_network(state_dict)[0].state_dict()["level1.conv.weight"].view(-1)[:8].view(torch.int32)
    assert loaded.tolist() == [1 << 23, 0, 0, 0, (1 << 23) + minus, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_single_value_that_is_not_finite_is_found(dtype):
    values = torch.linspace(-3, 3, 1001).to(dtype)
    assert all_finite(values)
    assert all_finite(values[:0])
    for place in (0, 500, 1000):
        for value in (math.nan, math.inf, -math.inf):
            wrong = values.clone()
            wrong[place] = value
            assert not all_finite(wrong)


def test_whole_numbers_of_any_width_are_finite():
    for dtype in (torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int16, torch.int64):
        assert all_finite(torch.ones(3, dtype=dtype))
