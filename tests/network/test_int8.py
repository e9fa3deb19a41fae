"""Int8 convolutions round as integer arithmetic does, are chosen by their damage, and leave as integers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import train
from segdistill.dataset.normalization import IMAGENET
from segdistill.network import __main__ as tool
from segdistill.network import build_network, int8, load_network
from segdistill.network.export import export_network, open_exported
from segdistill.network.export.base import sample_pictures
from segdistill.network.weights.checkpoint import atomic_save, describe, export_weights, load_weights

PICTURES = [IMAGENET(picture[None]) for picture in sample_pictures([(64, 96)] * 4)]


def network(calibrated=True):
    torch.manual_seed(0)
    made = build_network("espnet_c", 11, p=1, q=1).eval()
    if calibrated:
        int8.calibrate(made, PICTURES)
    return made


def report_of(network):
    report = describe(network)
    report.normalization = IMAGENET
    return report


def need_onnx():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def student():
    """The int8 convolutions of it are in place; nothing changes it."""
    return network()


def test_a_convolution_rounds_as_integer_arithmetic_does():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 8, 3, padding=1, stride=2, bias=False)
    int8.to_int8(layer)
    for name, step, zero in (("input", 0.05, 100), ("output", 0.03, 140)):
        getattr(layer, f"{name}_scale").fill_(step)
        getattr(layer, f"{name}_zero").fill_(zero)
    x = 4 * torch.randn(2, 3, 20, 24)
    levels = (x.double() / 0.05).round().add(100).clamp(0, 255) - 100
    steps = layer.weight_scale.double()
    weights = (layer.weight.double() / steps.view(-1, 1, 1, 1)).round()
    assert weights.abs().amax((1, 2, 3)).eq(127).all()
    sums = F.conv2d(levels, weights, stride=2, padding=1) * 0.05 * steps.view(1, -1, 1, 1)
    expected = (sums / 0.03).round().add(140).clamp(0, 255)
    given = layer(x).double() / 0.03 + 140
    assert (given - given.round()).abs().max() < 1e-3
    assert (given.round() != expected).float().mean() < 1e-3  # sums between two levels
    assert expected.unique().numel() > 100


def test_gradients_pass_where_nothing_is_cut_off():
    layer = torch.nn.Conv2d(1, 1, 1, bias=False)
    int8.to_int8(layer)
    layer.input_scale.fill_(0.01)  # 0 ... 2.55
    layer.output_scale.fill_(1.0)
    x = torch.tensor([-1.0, 0.5, 2.0, 3.0]).view(1, 1, 2, 2).requires_grad_()
    with torch.no_grad():
        layer.weight.fill_(1.0)
    layer.train()(x).sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 1, 0]
    assert layer.weight.grad.item() == pytest.approx(0 + 0.5 + 2 + 2.55)


def test_ranges_come_from_the_images_without_the_outermost_values(student):
    layer = student.level1.conv
    values = torch.cat(PICTURES).flatten()
    low = -layer.input_zero * layer.input_scale
    assert low.item() == pytest.approx(values.min().item(), abs=0.1)
    assert (low + 255 * layer.input_scale).item() == pytest.approx(values.max().item(), abs=0.1)
    outlier = torch.cat([values, torch.tensor([1e6])])
    assert int8.range_of(outlier)[1] <= values.max()


def test_the_convolution_that_does_most_damage_is_left_in_float():
    made = network()
    with torch.no_grad():
        expected = [network(calibrated=False)(image).logits.argmax(1) for image in PICTURES]
        made.classifier.conv.output_scale.mul_(40)
        in_float, kept = int8.leave_in_float(made, PICTURES, 0.9)
        given = [made(image).logits.argmax(1) for image in PICTURES]
    assert in_float == list(int8.float_layers(made)) == ["classifier.conv"]
    same = torch.cat([(a == b).flatten() for a, b in zip(given, expected, strict=True)]).float().mean().item()
    assert same == pytest.approx(kept)
    assert kept >= 0.9


def test_what_int8_cannot_keep_is_an_error():
    made = network()
    for layer in int8.int8_layers(made).values():
        layer.output_scale.mul_(40)
    with pytest.raises(ValueError, match=r"keeps the class of .* convolutions in float, less than 100.00%: ask for"):
        int8.leave_in_float(made, PICTURES, 1.0)


def test_a_file_keeps_the_scales_beside_plain_weights(student, tmp_path):
    atomic_save(export_weights(student, IMAGENET), tmp_path / "a.pth")
    loaded, report = load_network(tmp_path / "a.pth")
    assert "int8 in" in str(report)
    plain = network(calibrated=False)
    load_weights(plain, tmp_path / "a.pth")
    with torch.no_grad():
        for image in PICTURES[:1]:
            assert torch.equal(loaded(image).logits, student(image).logits)
            assert torch.equal(plain(image).logits, network(calibrated=False)(image).logits)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("level1.conv.input_scale", None, "level1.conv.input_scale is missing or damaged"),
        ("level1.conv.weight_scale", torch.ones(3), "level1.conv.weight_scale is missing or damaged"),
        ("level1.conv.output_scale", torch.tensor(float("inf")), "output_scale is missing or damaged"),
        ("level1.conv.output_zero", torch.tensor(300, dtype=torch.int32), "output_zero is missing or damaged"),
        ("level1.bn.input_scale", torch.tensor(1.0), "'level1.bn', which is no convolution"),
        ("x", 3, "its int8 does not hold tensors"),
    ],
)
def test_damaged_scales_are_named(student, entry, value, message):
    content = export_weights(student, IMAGENET)
    content["int8"] = {key: scale for key, scale in content["int8"].items() if key != entry}
    if value is not None:
        content["int8"][entry] = value
    with pytest.raises(ValueError, match=message):
        load_network(content)


@pytest.mark.slow
def test_the_exported_file_holds_integers_and_answers_alike(student, tmp_path):
    need_onnx()
    import onnx
    from onnx import numpy_helper

    pictures = sample_pictures([(64, 96), (65, 131), (160, 224)])
    found = export_network(student, report_of(student), tmp_path / "a.onnx", pictures=pictures)
    assert sum(one.changed for one in found) <= 1e-3 * sum(one.pixels for one in found)
    tensors = [numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "a.onnx").graph.initializer]
    weights = [tensor for tensor in tensors if tensor.ndim == 4 and len(tensor) > 1]
    layers = int8.int8_layers(student).values()
    assert len(weights) == len(layers)
    for layer, given in zip(layers, weights, strict=True):
        assert given.dtype == np.int8
        assert np.array_equal(given, (layer.weight.detach() / layer.weight_scale.view(-1, 1, 1, 1)).round())
    assert open_exported(tmp_path / "a.onnx").metadata["int8"] == {"float": []}
    with pytest.raises(ValueError, match=r"int8 can be exported to \.onnx alone, not to \.pt2"):
        export_network(student, report_of(student), tmp_path / "a.pt2")


@pytest.mark.slow
def test_the_command_calibrates_on_training_images(tiny, tmp_path, capsys):
    need_onnx()
    words = ["--int8", "--dataset", "camvid", "--data-dir", str(tiny / "camvid"), "--keep", "0.5"]
    assert tool.main(["export", str(tiny / "teacher.pth"), str(tmp_path / "a.onnx"), *words]) == 0
    assert "of the pixels of 4 training images keep their class" in capsys.readouterr().out
    metadata = open_exported(tmp_path / "a.onnx").metadata["int8"]
    assert {key: metadata[key] for key in ("dataset", "num_images")} == {"dataset": "camvid", "num_images": 4}
    assert metadata["kept"] >= 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--int8"], "--int8 is calibrated on training images: --dataset NAME --data-dir DIR"),
        (["--keep", "0.9"], "--keep has no effect without --int8"),
        (["--int8", "--dataset", "scenes", "--format", "pt2"], "--int8 is for .onnx alone"),
        (["--int8", "--dataset", "camvid"], "--dataset camvid needs --data-dir"),
        (["--int8", "--dataset", "scenes", "--num-images", "3"], "a whole number, 4 or more"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tool.main(["export", "a.pth", str(tmp_path / "a.onnx"), *words])
    assert message in capsys.readouterr().err


def test_what_cannot_become_int8_is_named(tiny, student, tmp_path, monkeypatch):
    words = ["--int8", "--dataset", "camvid", "--data-dir", str(tiny / "camvid")]
    export = ["export", str(tiny / "teacher.pth"), str(tmp_path / "a.onnx"), *words]
    monkeypatch.setattr(tool, "LEAST_IMAGES", 5)
    with pytest.raises(ValueError, match="has 4 training images; --int8 needs 5 or more"):
        tool.main(export)
    monkeypatch.undo()
    atomic_save(export_weights(student, IMAGENET), tmp_path / "int8.pth")
    with pytest.raises(ValueError, match="the network is int8 already"):
        tool.main(["export", str(tmp_path / "int8.pth"), str(tmp_path / "a.onnx"), *words])
    without_classes = network(calibrated=False)
    without_classes.num_classes = 0
    with pytest.raises(ValueError, match="measured by the classes of pixels, and the network has none"):
        int8.calibrate(without_classes, PICTURES)
    assert not (tmp_path / "a.onnx").exists()


def test_a_student_trains_in_int8_and_resumes_to_the_bit(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("segdistill.utils.report.pictures.plot_curves", lambda *_: None)
    teacher = str(tiny / "teacher.pth")

    def arguments(name, steps):
        return [
            *("--dataset", "camvid", "--data-dir", str(tiny / "camvid"), "--input-size", "64,64", "--batch-size", "2"),
            *("--network", "espnet_c", "--network-options", "p=1", "q=1", "--num-workers", "0", "--val-every", "2"),
            *("--quantise", "int8", "--S_ckpt_path", teacher, "--T_ckpt_path", teacher, "--pi", "--lr-g", "1e-3"),
            *("--schedule", "constant", "--num-steps", str(steps), "--snapshot-dir", str(tmp_path)),
            *("--save-name", name, "--resume"),
        ]

    for name, steps in (("whole", 4), ("parts", 2), ("parts", 4)):
        assert train.main(arguments(name, steps)) == 0
    whole, parts = (torch.load(tmp_path / name / "last.pth", weights_only=True) for name in ("whole", "parts"))
    assert whole["student"].keys() == parts["student"].keys()
    assert all(torch.equal(value, parts["student"][key]) for key, value in whole["student"].items())
    before, _ = load_network(teacher)
    int8.calibrate(before, [IMAGENET(image[None]) for image in images_of(tiny)])
    trained = whole["student"]
    assert not torch.equal(trained["level1.conv.weight"], before.level1.conv.weight)
    assert not torch.equal(trained["level1.conv.weight_scale"], before.level1.conv.weight_scale)
    torch.testing.assert_close(trained["level1.conv.output_scale"], before.level1.conv.output_scale)
    _, report = load_network(tmp_path / "whole/best.pth")
    assert report.int8 == len(int8.int8_layers(before))


def images_of(tiny):
    from segdistill.dataset import build_dataset

    dataset = build_dataset("camvid", tiny / "camvid", "train")
    return [dataset.read(index).image for index in range(len(dataset))]
