"""Exported files answer as their networks do, at any size, and say what they are."""

import importlib.util
import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import eval as evaluation
import test as prediction
from segdistill.dataset import CamVid
from segdistill.dataset.normalization import CAFFE, IMAGENET
from segdistill.network import NETWORKS, build_network, load_network
from segdistill.network.__main__ import main as network_tool
from segdistill.network.export import FORMATS, export_network, format_of, onnx, open_exported
from segdistill.network.export.base import Deployed, sample_pictures
from segdistill.network.export.network import load_exported
from segdistill.network.head.pyramid_pooling import mean_matrix
from segdistill.network.weights.checkpoint import atomic_save, describe, export_weights
from segdistill.utils.predict import resized, whole

BACKBONES = {"deeplabv3plus": "mobilenetv2", "segformer": "mit_b0", "espnet": None, "espnet_c": None}
OTHER_SIZES = ((1, 96, 128), (2, 97, 131), (1, 64, 200), (3, 160, 96))


# Exporting to .pt2 takes a second, to the others several.
each_format = pytest.mark.parametrize(
    "kind", [name if name == "pt2" else pytest.param(name, marks=pytest.mark.slow) for name in FORMATS]
)


def is_installed(name):
    return all(importlib.util.find_spec(package) for package in FORMATS[name].PACKAGES)


def skip_without(name):
    if not is_installed(name):
        pytest.skip(f"the packages of {name} are not installed")


def loaded(name="espnet_c", normalization=IMAGENET, input_size=None, **options):
    torch.manual_seed(0)
    network = build_network(name, 11, **options).eval()
    report = describe(network)
    report.normalization, report.input_size, report.classes = normalization, input_size, CamVid.CLASSES
    return network, report


@pytest.mark.parametrize("side", [1, 2, 5, 6, 7, 12, 41])
def test_bins_by_matrices_are_adaptive_average_pooling(side):
    maps = torch.randn(2, 3, side, 9, dtype=torch.float64)
    for bins in (1, 2, 3, 6):
        expected = F.adaptive_avg_pool2d(maps, bins)
        given = mean_matrix(side, bins).double() @ maps @ mean_matrix(9, bins).double().T
        torch.testing.assert_close(given, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_answers_the_same_at_sizes_that_the_graph_has_not_seen(name, tmp_path, monkeypatch):
    backbone = BACKBONES.get(name, "resnet18")
    network, report = loaded(name, **({"backbone": backbone} if backbone else {}))
    module = Deployed(network, IMAGENET)
    for kind in [kind for kind in FORMATS if is_installed(kind)]:
        file = tmp_path / f"network{FORMATS[kind].SUFFIX}"
        export_network(network, report, file, output="logits")
        if kind == "onnx":  # OpenVINO's is made from it
            monkeypatch.setattr(onnx, "write", lambda module, path, metadata, file=file: shutil.copy(file, path))
        runner = open_exported(file)
        for count, *size in OTHER_SIZES:
            pictures = torch.stack(sample_pictures([tuple(size)] * count))
            with torch.no_grad():
                expected = module.logits(pictures)
            given = torch.from_numpy(np.array(runner.run(pictures.numpy())))
            assert (given - expected).abs().max() <= 1e-5 * expected.abs().max()


@each_format
def test_a_file_says_what_it_is_and_nothing_of_where_it_was_made(kind, tmp_path):
    skip_without(kind)
    files = [tmp_path / f"{name}{FORMATS[kind].SUFFIX}" for name in "ab"]
    for file in files:
        export_network(*loaded(p=1, q=1), file, scores={"mean_iou": 0.5})
    runner = open_exported(files[0])
    assert runner.metadata["classes"] == list(CamVid.CLASSES)
    assert runner.metadata["scores"] == {"mean_iou": 0.5}
    contents = [file.read_bytes() for file in files]
    assert contents[0] == contents[1]
    if zipfile.is_zipfile(files[0]):
        with zipfile.ZipFile(files[0]) as archive:
            contents = [archive.read(name) for name in archive.namelist()]
    for trace in (b"site-packages", b"network/", b'File "', b"espnet.py", str(tmp_path).encode()):
        assert not any(trace in content for content in contents)


@each_format
def test_input_convention_and_size_are_inside(kind, tmp_path):
    skip_without(kind)
    network, report = loaded(normalization=CAFFE, input_size=(48, 64), p=1, q=1)
    export_network(network, report, tmp_path / "x", name=kind)
    (picture,) = sample_pictures([(70, 90)])
    expected = resized(whole(network), (48, 64)).class_ids(CAFFE(picture[None]))
    runner = FORMATS[kind].read(tmp_path / "x")
    assert np.array_equal(runner.run(picture[None].numpy()), expected.numpy())


@pytest.mark.parametrize("answer", ["classes", "logits", "probabilities"])
def test_scores_and_pictures_are_those_of_the_checkpoint(tiny, tmp_path, answer):
    teacher, exported = tiny / "teacher.pth", tmp_path / "teacher.pt2"
    assert network_tool(["export", str(teacher), str(exported), "--answer", answer]) == 0
    figures = []
    for file in (teacher, exported):
        words = ["--dataset", "camvid", "--data-dir", tiny / "camvid", "--checkpoint", file, "--output", tmp_path / "e"]
        words += ["--network", exported] if file == exported else []
        assert evaluation.main([*map(str, words)]) == 0
        figures.append(json.loads((tmp_path / "e").read_text()))
    for key in ("mean_iou", "iou", "classes", "parameters", "protocol"):
        assert figures[0][key] == figures[1][key]
    images, output = tiny / "camvid/test", tmp_path / "out"
    words = ["--images", images, "--checkpoint", exported, "--output", output, "--save", "colours"]
    with pytest.raises(ValueError, match="holds a program: name it by --network"):
        prediction.main([*map(str, words)])
    words += ["--network", exported]
    assert prediction.main([*map(str, words)]) == 0
    assert len(list(output.rglob("*.png"))) == 2


def test_a_file_that_answers_otherwise_is_not_kept(tmp_path, monkeypatch):
    class Other:
        SUFFIX, PACKAGES = ".other", ()

        def write(self, module, path, metadata):
            path.write_text("wrong")

        def read(self, path):
            return type("Runner", (), {"run": staticmethod(lambda images: np.zeros(images[:, 0].shape, np.uint8))})

    monkeypatch.setitem(FORMATS, "other", Other())
    (tmp_path / "kept.other").write_text("before")
    with pytest.raises(ValueError, match=r"kept.other would answer otherwise .* pixels change their class"):
        export_network(*loaded(p=1, q=1), tmp_path / "kept.other")
    assert (tmp_path / "kept.other").read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["kept.other"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "x.tflite"}, r"no format has this ending; known: \.onnx"),
        ({"normalization": None}, "input convention is not known"),
    ],
)
def test_what_cannot_be_exported_is_named(tmp_path, change, message):
    network, report = loaded(p=1, q=1)
    report.normalization = change.get("normalization", report.normalization)
    with pytest.raises(ValueError, match=message):
        export_network(network, report, tmp_path / change.get("path", "x.pt2"))
    assert not list(tmp_path.iterdir())


@each_format
def test_a_damaged_or_foreign_file_is_one_line(kind, tmp_path):
    skip_without(kind)
    file = tmp_path / f"x{FORMATS[kind].SUFFIX}"
    export_network(*loaded(p=1, q=1), file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"is no sound"):
        open_exported(file)
    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(1),))
    torch.export.save(program, tmp_path / "foreign.pt2")
    with pytest.raises(ValueError, match="was not exported by segdistill"):
        open_exported(tmp_path / "foreign.pt2")
    with pytest.raises(FileNotFoundError, match="no exported file"):
        open_exported(tmp_path / "absent.onnx")


def test_a_single_class_can_be_exported(tmp_path):
    network = build_network("espnet_c", 1, p=1, q=1).eval()
    report = describe(network)
    report.normalization = IMAGENET
    assert not any(one.changed for one in export_network(network, report, tmp_path / "x.pt2"))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install segdistill\[onnx\]"):
        format_of("student.onnx")


def test_the_exported_network_is_the_one_of_the_file(tmp_path):
    network, _ = loaded(p=1, q=1)
    atomic_save(export_weights(network, IMAGENET, classes=CamVid.CLASSES), tmp_path / "a.pth")
    network, report = load_network(tmp_path / "a.pth")
    export_network(network, report, tmp_path / "a.pt2")
    assert open_exported(tmp_path / "a.pt2").metadata["source_sha256"] == report.sha256


@each_format
def test_a_network_of_depth_answers_in_depth(kind, tmp_path):
    skip_without(kind)
    torch.manual_seed(0)
    network = build_network("espnet_c", 1, p=1, q=1, depth=(2.0, 80.0, True)).eval()
    report = describe(network)
    report.normalization = IMAGENET
    path = tmp_path / f"depth{FORMATS[kind].SUFFIX}"
    differences = export_network(network, report, path)
    assert max(one.largest for one in differences) < 1e-5
    picture = sample_pictures()[1]
    depth = open_exported(path).run(picture[None].numpy())
    assert (depth.dtype, depth.shape) == (np.float32, (1, 1, *picture.shape[1:]))
    assert ((depth > 2) & (depth < 80)).all()
    again, _ = load_exported(path)
    expected = whole(network, "depth")(IMAGENET(picture[None]))
    torch.testing.assert_close(whole(again, "depth")(picture[None].float()), expected, rtol=1e-4, atol=0)
    assert again.depth == network.depth


def test_classes_cannot_be_exported_as_depth(tmp_path):
    with pytest.raises(ValueError, match="the network has no depth to export"):
        export_network(*loaded(p=1, q=1), tmp_path / "a.pt2", output="depth")
