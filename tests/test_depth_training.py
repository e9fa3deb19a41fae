"""Depth from the first command to the last: trained on labels, distilled without, scored, drawn, as files."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import eval as evaluation
import test as prediction
import train
from segdistill.dataset.base import evenly_spaced, is_labelled
from segdistill.dataset.scenes.generator import generate
from segdistill.network import build_network, load_network
from segdistill.network.depth import RELATIVE
from segdistill.network.weights.checkpoint import atomic_save, export_weights
from segdistill.utils.learner import Learner
from segdistill.utils.report import pictures
from segdistill.utils.tasks.depth import Depth

ROOT = Path(__file__).parents[1]
SMALL = ("--network", "espnet_c", "--network-options", "p=1", "q=1", "--batch-size", "4", "--num-workers", "0")


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("data") / "scenes", 6, 2, 1, size=(64, 128))


@pytest.fixture
def learn(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "plot_curves", lambda groups, path: None)  # slow

    def run(*words, name):
        places = ("--snapshot-dir", tmp_path, "--save-name", name, "--device", "cpu", *SMALL)
        assert train.main([*map(str, (*words, *places))]) == 0
        return tmp_path / name

    return run


def test_depth_is_learned_scored_and_written_as_files(streets, learn, tmp_path, capsys):
    data = ("--dataset", "scenes", "--task", "depth", "--data-dir", streets)
    steps = (
        "--input-size",
        "64,128",
        "--num-steps",
        "4",
        "--val-every",
        "2",
        "--depth-loss",
        "berhu",
        "--lr-g",
        "0.01",
    )
    teacher = ("--T_ckpt_path", ROOT / "ckpt/scenes_depth_teacher.pth", "--teacher-scale", "2", "--depth")
    run = learn(*data, *steps, "--num-labels", "2", "--unlabelled-share", "0.5", *teacher, name="distilled")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss/berhu"]) and np.isfinite(row["loss/depth"]) for row in rows if "loss" in row)

    output = run / "evaluation.json"
    words = [*map(str, data), "--checkpoint", str(run / "best.pth"), "--output", str(output)]
    assert evaluation.main([*words, "--align", "median", "--depth-range", "3", "50"]) == 0
    figures = json.loads(output.read_text())
    assert figures["task"] == "depth"
    assert figures["protocol"]["align"] == "median"
    assert figures["protocol"]["depth_range"] == [3.0, 50.0]
    assert 0 < figures["delta1"] < 1
    assert figures["silog"] > 0
    assert "scale aligned by medians; depth within 3 and 50" in capsys.readouterr().out
    assert re.search(r"\*\*δ1\*\* +\| +\d", (run / "report.md").read_text())

    with pytest.raises(ValueError, match="--count-void has no effect with --task depth, which has no classes"):
        evaluation.main([*words, "--count-void", "--check"])

    photos = streets / "leftImg8bit/val"
    kinds = ("labels", "values", "colours", "overlays", "panels")
    words = ["--images", photos, "--checkpoint", run / "best.pth", "--output", tmp_path / "out", "--save", *kinds]
    assert prediction.main([*map(str, words), "--device", "cpu"]) == 0
    name = "dogwood_000000_000019_leftImg8bit"
    values = np.load(tmp_path / f"out/values/{name}.npy")
    stored = np.asarray(Image.open(tmp_path / f"out/labels/{name}.png"))
    assert (values.dtype, stored.dtype, values.shape) == (np.float32, np.uint16, (64, 128))
    np.testing.assert_allclose(stored / 256, values, atol=1 / 511)
    assert ((values > 2) & (values < 80)).all()
    assert np.asarray(Image.open(tmp_path / f"out/colours/{name}.png")).shape == (64, 128, 3)
    assert Image.open(tmp_path / f"out/panels/{name}.png").height == 64 + 2 * 18  # names above, a scale below


def test_labels_that_random_scale_brings_beyond_the_range_are_void(streets, learn, monkeypatch):
    seen, accumulate = [], Learner.accumulate
    monkeypatch.setattr(Learner, "accumulate", lambda *given: (seen.append(given[1]), accumulate(*given)))
    words = ("--dataset", "scenes", "--task", "depth", "--data-dir", streets, "--input-size", "32,64")
    learn(*words, "--random-scale", "--scale-range", "0.25", "0.25", "--num-steps", "1", name="scaled")
    known = seen[0].labels[is_labelled(seen[0].labels)]
    assert 0 < known.min() < known.max() <= 80
    assert seen[0].num_valid == len(known)


def test_a_student_of_relative_depth_learns_by_ssi_and_validates_as_eval_scores(streets, learn, monkeypatch):
    monkeypatch.setattr(Depth, "head", lambda self, dataset: {"depth": [*RELATIVE]})
    words = ("--dataset", "scenes", "--task", "depth", "--data-dir", streets, "--input-size", "64,128")
    with pytest.raises(ValueError, match=r"--depth-loss silog compares metres.*espnet_c's depth is relative.* ssi"):
        learn(*words, name="metres")
    run = learn(*words, "--depth-loss", "ssi", "--num-steps", "1", name="relative")
    validated = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    output = run / "evaluation.json"
    assert evaluation.main([*map(str, (*words[:6], "--checkpoint", run / "best.pth", "--output", output))]) == 0
    figures = json.loads(output.read_text())
    assert figures["protocol"]["align"] == "lstsq"
    assert validated["val/rmse"] == pytest.approx(figures["rmse"], rel=1e-4)


def tiny_depth_anything(folder, **settings):
    """A Depth Anything of random weights, built from its config, with its processor beside it.

    Kernels are constant, so that its answer is smooth; with this seed the sky is far and the road is near. NumPy draws
    the weights, for PyTorch's versions draw others from one seed.
    """
    transformers = pytest.importorskip("transformers")
    stages = [f"stage{number}" for number in range(1, 5)]
    backbone = transformers.Dinov2Config(
        **{"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 70, "patch_size": 14},
        **{"out_features": stages, "reshape_hidden_states": False},
    )
    config = transformers.DepthAnythingConfig(
        **{"backbone_config": backbone, "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 8},
        **{"head_hidden_size": 8, "reassemble_hidden_size": 24, **settings},
    )
    model = transformers.DepthAnythingForDepthEstimation(config).eval()
    rng = np.random.default_rng(17)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data[:] = torch.from_numpy(rng.standard_normal(weight.shape)) * weight.std()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.weight.data[:] = layer.weight.data.mean((2, 3), keepdim=True)
    model.save_pretrained(folder)
    transformers.DPTImageProcessor(size={"height": 70, "width": 70}).save_pretrained(folder)
    return model


@pytest.fixture
def photos(tmp_path):
    """Six pictures of coarse noise."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.mark.slow
def test_a_depth_anything_teaches_on_images_without_labels(photos, learn, tmp_path, capsys):
    tiny_depth_anything(tmp_path / "teacher")
    words = ("--dataset", "images", "--task", "depth", "--data-dir", photos, "--input-size", "70,98")
    teacher = ("--teacher-network", f"hf:{tmp_path / 'teacher'}", "--task-weight", "0", "--depth", "gradient=0")
    run = learn(*words, *teacher, "--num-steps", "20", "--lr-g", "0.03", "--log-every", "1", name="run")
    losses = [json.loads(line).get("loss/depth") for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])
    student, _ = load_network(run / "best.pth")
    assert student.depth == (1.0, 100.0, False)  # relative, as the teacher's
    kind = ("--dataset", "images", "--task", "depth", "--data-dir", photos, "--checkpoint", run / "best.pth")
    assert evaluation.main([*map(str, (*kind, *teacher[:2], "--output", tmp_path / "agreement.json"))]) == 0
    agreement = json.loads((tmp_path / "agreement.json").read_text())
    assert agreement["protocol"]["align"] == "lstsq"
    assert 0 < agreement["agreement_delta1"] <= 1
    assert "δ1 with the teacher" in capsys.readouterr().out


@pytest.fixture
def street_photos(tmp_path):
    """30 real pictures of streets, without labels."""
    files = sorted(Path(os.environ.get("SEGDISTILL_DATA", tmp_path), "camvid/train").glob("*.png"))
    if not files:
        pytest.skip("no CamVid: set SEGDISTILL_DATA")
    (tmp_path / "PHOTOS").mkdir()
    for index in evenly_spaced(30, len(files)):
        shutil.copy(files[index], tmp_path / "PHOTOS")
    return tmp_path / "PHOTOS"


@pytest.mark.slow
def test_the_readmes_command_teaches_depth_on_real_photos(street_photos, tmp_path):
    tiny_depth_anything(tmp_path / "teacher")
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"python train\.py (--dataset images --task depth .*)", text)
    command = re.sub(r"hf:\S+", f"hf:{tmp_path / 'teacher'}", command).replace("PHOTOS", str(street_photos))
    few = "--num-steps 20 --input-size 96,128 --optimizer adamw --lr-g 1e-3 --num-workers 0 --device cpu"
    run = tmp_path / "run"
    words = shlex.split(f"{command} {few} --snapshot-dir {tmp_path} --save-name run")
    assert train.main(words) == 0

    student, report = load_network(run / "best.pth")
    torch.manual_seed(0)
    untrained = build_network("segformer", None, depth=student.depth).eval()
    atomic_save(export_weights(untrained, report.normalization), tmp_path / "untrained.pth")
    data = ("--dataset", "images", "--task", "depth", "--data-dir", street_photos)
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    files = ("--checkpoint", tmp_path / "untrained.pth", run / "best.pth", "--output", before, after)
    teacher = ("--teacher-network", f"hf:{tmp_path / 'teacher'}")
    assert evaluation.main([*map(str, (*data, *teacher, *files)), "--device", "cpu"]) == 0
    before, after = (json.loads(file.read_text()) for file in (before, after))
    assert after["agreement_delta1"] > before["agreement_delta1"]
    assert after["agreement_silog"] < 0.9 * before["agreement_silog"]

    assert "![image, the teacher, student](predictions.png)" in (run / "report.md").read_text()
    panels = Image.open(run / "predictions.png")
    assert panels.size == (3 * 480, 2 * 360)
    assert panels.convert("L").getextrema()[1] > 200
