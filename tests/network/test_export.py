"""Exported files answer as their networks do, at any size, and say what they are."""

import functools
import importlib.util
import json
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

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
from segdistill.network.export import (
    FORMATS,
    export_network,
    format_of,
    ncnn,
    onnx,
    open_exported,
    torch_export,
)
from segdistill.network.export.base import REQUIRED, Deployed, Runner, graph_of, sample_pictures, text_of
from segdistill.network.export.network import load_exported
from segdistill.network.head.pyramid_pooling import mean_matrix
from segdistill.network.weights.checkpoint import atomic_save, describe, export_weights
from segdistill.utils.checkpoint import load_required
from segdistill.utils.predict import resized, whole

SMALL = {
    "deeplabv3plus": {"backbone": "mobilenetv2"},
    "segformer": {"backbone": "mit_b0"},
    **{name: {"p": 1, "q": 1} for name in ("espnet", "espnet_c")},
}
OTHER_SIZES = ((1, 96, 128), (2, 65, 97), (1, 128, 160))  # batches: the graph's size, an odd smaller one, a larger one
COSTLY = {"executorch"}  # half a minute a network


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


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """A function: a folder that holds a small network, shown pictures of 48x64, as ``student`` of a format."""

    @functools.cache
    def export(kind):
        skip_without(kind)
        folder = tmp_path_factory.mktemp(kind)
        path = folder / f"student{FORMATS[kind].SUFFIX}"
        export_network(*loaded(normalization=CAFFE, input_size=(48, 64), p=1, q=1), path, scores={"mean_iou": 0.5})
        return folder

    return export


@pytest.fixture
def exported(kind, folder_of, tmp_path):
    """A copy of that file, alone with what belongs to it."""
    shutil.copytree(folder_of(kind), tmp_path / kind)
    return tmp_path / kind / f"student{FORMATS[kind].SUFFIX}"


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
    network, _ = loaded(name, **SMALL.get(name, {"backbone": "resnet18"}))
    module = Deployed(network, IMAGENET, None, "logits").eval().requires_grad_(False)
    batches = [torch.stack(sample_pictures([tuple(size)] * count)) for count, *size in OTHER_SIZES]
    with torch.no_grad():
        expected = [module(pictures) for pictures in batches]
    graph, notes = graph_of(module), text_of(dict.fromkeys(REQUIRED) | {"output": "logits", "num_classes": 11})
    for format in (onnx, ncnn, torch_export):
        monkeypatch.setattr(format, "graph_of", lambda module: graph)
    for kind in [kind for kind in FORMATS if kind not in COSTLY and is_installed(kind)]:
        file = tmp_path / f"network{FORMATS[kind].SUFFIX}"
        FORMATS[kind].write(module, file, notes)
        if kind == "onnx":  # OpenVINO's is made from it
            monkeypatch.setattr(onnx, "write", lambda module, path, metadata, file=file: shutil.copy(file, path))
        runner = FORMATS[kind].read(file)
        for pictures, right in zip(batches, expected, strict=True):
            given = torch.from_numpy(np.array(runner.run(pictures.numpy())))
            assert (given - right).abs().max() <= FORMATS[kind].TOLERANCE * right.abs().max(), kind


@each_format
def test_a_file_says_what_it_is_and_nothing_of_where_it_was_made(kind, exported, tmp_path):
    again = tmp_path / "again" / exported.name
    export_network(*loaded(normalization=CAFFE, input_size=(48, 64), p=1, q=1), again, scores={"mean_iou": 0.5})
    runner = open_exported(exported)
    assert runner.metadata["classes"] == list(CamVid.CLASSES)
    assert runner.metadata["scores"] == {"mean_iou": 0.5}
    contents = {file.name: file.read_bytes() for file in exported.parent.iterdir()}
    assert contents == {file.name: file.read_bytes() for file in again.parent.iterdir()}
    pieces = list(contents.values())
    if zipfile.is_zipfile(exported):
        with zipfile.ZipFile(exported) as archive:
            pieces = [archive.read(name) for name in archive.namelist()]
    for trace in (b"site-packages", b"network/", b'File "', b"espnet.py", tempfile.gettempdir().encode()):
        assert not any(trace in piece for piece in pieces)


@each_format
def test_input_convention_and_size_are_inside(kind, exported):
    network, _ = loaded(p=1, q=1)
    (picture,) = sample_pictures([(70, 90)])
    expected = resized(whole(network), (48, 64)).class_ids(CAFFE(picture[None]))
    assert np.array_equal(open_exported(exported).run(picture[None].numpy()), expected.numpy())


@pytest.mark.parametrize("answer", ["classes", "probabilities"])
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
        SUFFIX, PACKAGES, TOLERANCE = ".other", (), 1e-5

        def write(self, module, path, metadata):
            path.write_text("wrong")

        def read(self, path):
            return Runner(lambda images: np.zeros(images[:, 0].shape, np.uint8), {}, "another")

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
@pytest.mark.parametrize("kept", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_one_line(kind, exported, kept):
    for file in exported.parent.iterdir():
        content = file.read_bytes()
        file.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(ValueError, match=re.escape(str(exported))) as caught:
            load_required(exported, [str(exported)])
        assert "\n" not in str(caught.value)
        file.write_bytes(content)


@each_format
def test_an_edited_file_is_one_line(kind, exported):
    content = exported.read_bytes()
    assert content.count(b"segdistill.num_classes")
    exported.write_bytes(content.replace(b"segdistill.num_classes", b"segdistill.num_Classes"))
    with pytest.raises(ValueError, match=r"without num_classes; export it again|no sound"):
        load_required(exported, [str(exported)])


def test_a_foreign_or_absent_file_is_one_line(tmp_path):
    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(1),))
    torch.export.save(program, tmp_path / "foreign.pt2")
    with pytest.raises(ValueError, match="was not exported by segdistill"):
        open_exported(tmp_path / "foreign.pt2")
    with pytest.raises(FileNotFoundError, match="no exported file"):
        open_exported(tmp_path / "absent.onnx")


def refuse(images):
    raise RuntimeError("index out of range\nat node 7")


@pytest.mark.parametrize("kind", ["pt2"])
@pytest.mark.parametrize(
    ("run", "message"),
    [
        (refuse, "fails on images of 8x9: RuntimeError: index out of range"),
        (lambda images: images[:, 0, 1:], r"answers \(1, 7, 9\) .* it was edited"),
        (lambda images: np.full((1, 8, 9), 11, np.uint8), r"of 11 classes are right: it was edited"),
    ],
)
def test_what_a_runtime_refuses_or_a_wrong_answer_is_one_line(kind, exported, run, message):
    network, _ = load_required(exported, [str(exported)])
    network.runner = network.runner._replace(run=run)
    with pytest.raises(ValueError, match=message) as caught:
        network(torch.zeros(1, 3, 8, 9))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_output_that_cannot_be_written_is_told_before_anything_is_made(kind, tmp_path):
    skip_without(kind)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path, message in (
        (tmp_path / "file/x", "file is no folder"),
        (tmp_path / "folder", "is a folder; name a file"),
    ):
        with pytest.raises(ValueError, match=message):
            export_network(*loaded(p=1, q=1), path, name=kind)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["file", "folder"]


BRANCHES = """
import torch

class Net(torch.nn.Module):
    def __init__(self, num_classes=11):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, num_classes, 3, padding=1)

    def forward(self, x):
        return self.conv(x) if x.mean() > 0 else -self.conv(x)
"""


@pytest.mark.parametrize("kind", FORMATS)
def test_a_network_that_branches_on_values_is_one_line(kind, tmp_path):
    skip_without(kind)
    (tmp_path / "branches.py").write_text(BRANCHES)
    network = build_network(f"{tmp_path}/branches.py:Net", 11).eval()
    report = describe(network)
    report.normalization = IMAGENET
    with pytest.raises(ValueError, match=r"cannot carry .*branches.py:Net: .*ata.dependent") as caught:
        export_network(network, report, tmp_path / f"x{FORMATS[kind].SUFFIX}")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("x*"))


def test_what_ncnn_has_no_layer_for_is_named(tmp_path, monkeypatch):
    skip_without("ncnn")
    network, report = loaded(p=1, q=1)
    monkeypatch.setattr(type(network), "maps", lambda self, images, wanted: {"logits": images.sort(2).values})
    with pytest.raises(
        ValueError, match=r"cannot carry espnet_c: ncnn has no layer for aten::sort.*; the other formats may"
    ):
        export_network(network, report, tmp_path / "x.ncnn.param")
    assert not list(tmp_path.iterdir())


def test_a_single_class_can_be_exported(tmp_path):
    network = build_network("espnet_c", 1, p=1, q=1).eval()
    report = describe(network)
    report.normalization = IMAGENET
    assert not any(one.changed for one in export_network(network, report, tmp_path / "x.pt2"))


@pytest.mark.parametrize("kind", [kind for kind, format in FORMATS.items() if format.PACKAGES])
def test_a_missing_package_is_named_with_its_extra(kind, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"pip install segdistill\[{kind}\]"):
        format_of(f"student{FORMATS[kind].SUFFIX}")
    assert f"\n{kind} = [" in (Path(__file__).parents[2] / "pyproject.toml").read_text()


def test_the_exported_network_is_the_one_of_the_file(tmp_path):
    network, _ = loaded(p=1, q=1)
    atomic_save(export_weights(network, IMAGENET, classes=CamVid.CLASSES), tmp_path / "a.pth")
    network, report = load_network(tmp_path / "a.pth")
    export_network(network, report, tmp_path / "a.pt2")
    assert open_exported(tmp_path / "a.pt2").metadata["source_sha256"] == report.sha256
    assert torch.export.load(tmp_path / "a.pt2").example_inputs is None  # the file would hold them


@pytest.mark.parametrize("kind", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("answer", ["classes", "probabilities"])
def test_depth_cannot_be_exported_as_classes(answer, tmp_path):
    network = build_network("espnet_c", 1, p=1, q=1, depth=(2.0, 80.0, True))
    atomic_save(export_weights(network, IMAGENET), tmp_path / "depth.pth")
    with pytest.raises(ValueError, match=f"answers in depth, not in {answer}"):
        network_tool(["export", str(tmp_path / "depth.pth"), str(tmp_path / "a.pt2"), "--answer", answer])
    assert not (tmp_path / "a.pt2").exists()


def test_classes_cannot_be_exported_as_depth(tmp_path):
    with pytest.raises(ValueError, match="the network has no depth to export"):
        export_network(*loaded(p=1, q=1), tmp_path / "a.pt2", output="depth")
