"""The commands that users type, as they type them."""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import Job
from PIL import Image

import eval as evaluation
import test as prediction
import train
from segdistill.dataset import CamVid, Cityscapes
from segdistill.dataset.normalization import IMAGENET
from segdistill.network import build_network
from segdistill.network.weights.checkpoint import atomic_save, export_weights

ROOT = Path(__file__).parents[1]
TO_CITYSCAPES = str(ROOT / "experiments/class_maps/camvid_to_cityscapes.txt")
real_data = pytest.mark.skipif(
    "SEGDISTILL_DATA" not in os.environ, reason="SEGDISTILL_DATA (folder of real data) is not set"
)


def evaluate(tmp_path, *arguments):
    output = tmp_path / "evaluation.json"
    assert evaluation.main([*map(str, arguments), "--output", str(output)]) == 0
    return json.loads(output.read_text())


@real_data
@pytest.mark.slow
def test_a_released_checkpoint_gives_its_published_number(tmp_path):
    root = os.environ["SEGDISTILL_DATA"]
    words = ["--network", "espnet", "--dataset", "camvid", "--split", "test", "--data-dir", f"{root}/camvid"]
    words += ["--checkpoint", f"{root}/skd_camvid/espnet/SD+KD+CITY_65.1.pth", "--batch-size", 8]
    assert 100 * evaluate(tmp_path, *words)["mean_iou"] == pytest.approx(65.13, abs=0.02)


def test_a_perfect_prediction_scores_one(tiny, tmp_path, capsys):
    data = ["--dataset", "camvid", "--data-dir", tiny / "camvid", "--split", "test"]
    figures = evaluate(tmp_path, *data, "--checkpoint", tiny / "teacher.pth")
    assert (figures["mean_iou"], figures["pixel_accuracy"], figures["num_images"]) == (1.0, 1.0, 2)
    assert figures["network"] == {"name": "espnet_c", "num_classes": 11, "p": 1, "q": 1}
    assert "100.00" in capsys.readouterr().out
    assert evaluate(tmp_path, *data, "--checkpoint", tiny / "teacher.pth", "--count-void")["pixel_accuracy"] < 1


def test_the_protocol_is_what_was_done_and_is_written_down(tiny, tmp_path, capsys):
    data = [
        "--dataset",
        "camvid",
        "--data-dir",
        tiny / "camvid",
        "--split",
        "test",
        "--checkpoint",
        tiny / "teacher.pth",
    ]
    plain = evaluate(tmp_path, *data, "--batch-size", 2)
    tiled = evaluate(tmp_path, *data, "--predict", "sliding", "--tile", 32, 48, "--flip", "--input-scale", 0.5)
    assert plain["protocol"]["predict"] == "whole"
    assert plain["mean_iou"] > 0.99 > tiled["mean_iou"]
    assert tiled["protocol"] == {
        **{"predict": "sliding", "tile": [32, 48], "overlap": 1 / 3, "scales": [1.0], "flip": True},
        **{"input_size": 0.5, "count_void": False},
    }
    assert "tiles of 32x48, 33 % overlap; mirrored too; shown at 0.5 x." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "value", "without"),
    [
        ("--teacher-options", "k=1", "--teacher-network"),
        ("--teacher-normalization", "caffe", "a teacher"),
        ("--teacher-scale", "0.5", "a teacher"),
    ],
)
def test_a_setting_of_a_teacher_that_is_not_named_is_refused(flag, value, without, capsys):
    with pytest.raises(SystemExit):
        evaluation.main(["--dataset", "camvid", "--data-dir", "x", "--checkpoint", "x", flag, value])
    assert f"{flag} has no effect without {without}" in capsys.readouterr().err


def test_a_file_of_another_network_than_asked_for_is_an_error(tiny, tmp_path):
    data = ["--dataset", "camvid", "--data-dir", str(tiny / "camvid")]
    with pytest.raises(ValueError, match="holds a espnet_c, not a pspnet"):
        evaluation.main([*data, "--checkpoint", str(tiny / "teacher.pth"), "--network", "pspnet"])


def test_what_a_file_cannot_tell_is_said_beside_it(tiny, tmp_path):
    data = ["--dataset", "camvid", "--data-dir", tiny / "camvid", "--network-options", "output_stride=16"]
    network = build_network("pspnet", 11, backbone="mobilenetv2", output_stride=8)
    atomic_save(export_weights(network, IMAGENET), tmp_path / "best.pth")
    assert evaluate(tmp_path, *data, "--checkpoint", tmp_path / "best.pth")["network"]["output_stride"] == 16
    with pytest.raises(ValueError, match="espnet_c has no setting 'output_stride=16'"):
        evaluate(tmp_path, *data, "--checkpoint", tiny / "teacher.pth")


def test_classes_that_do_not_fit_are_an_error_until_a_class_map_says_what_they_become(tiny, tmp_path):
    """A 19-class file was once 'evaluated' on CamVid to 0.12 mIoU."""
    network = build_network("espnet_c", 19, p=1, q=1)
    atomic_save(export_weights(network, IMAGENET, classes=Cityscapes.CLASSES), tmp_path / "cityscapes.pth")
    data = ["--checkpoint", str(tmp_path / "cityscapes.pth"), "--dataset", "camvid"]
    data += ["--data-dir", str(tiny / "camvid")]
    with pytest.raises(ValueError, match="--class-map"):
        evaluation.main(data)
    with pytest.raises(ValueError, match="--class-map"):
        prediction.main([*data, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    class_map = str(ROOT / "experiments/class_maps/cityscapes_to_camvid.txt")
    figures = evaluate(tmp_path, *data, "--class-map", class_map)
    assert figures["protocol"]["class_map"] == class_map
    assert figures["iou"][CamVid.CLASSES.index("sign symbol")] is not None
    prediction.main([*data, "--output", str(tmp_path / "out"), "--class-map", class_map])
    assert np.asarray(Image.open(tmp_path / "out/labels/0.png")).max() < 11


def test_predictions_are_written_for_every_image(tiny, tmp_path):
    data = ["--dataset", "camvid", "--data-dir", str(tiny / "camvid")]
    weights = ["--checkpoint", str(tiny / "teacher.pth")]
    kinds = ["--save", "labels", "colours", "overlays"]
    assert prediction.main([*data, *weights, "--output", str(tmp_path), *kinds]) == 0
    truth = np.asarray(Image.open(tiny / "camvid/testannot/1.png"))
    written = np.asarray(Image.open(tmp_path / "labels/1.png"))
    assert np.array_equal(written[truth != 11], truth[truth != 11])
    assert sorted(path.name for path in (tmp_path / "colours").iterdir()) == ["0.png", "1.png"]
    assert Image.open(tmp_path / "overlays/0.png").size == (64, 64)


def test_any_folder_of_pictures_can_be_predicted(tiny, tmp_path):
    weights = ["--checkpoint", str(tiny / "teacher.pth"), "--dataset", "cityscapes", "--class-map", TO_CITYSCAPES]
    prediction.main([*weights, "--images", str(tiny / "camvid/val"), "--output", str(tmp_path / "out")])
    ids = np.asarray(Image.open(tmp_path / "out/labels/0.png"))
    assert set(np.unique(ids)) <= {7, 8, 11, 13, 17, 20, 21, 23, 24, 26, 33}
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no pictures"):
        prediction.main([*weights, "--images", str(tmp_path / "empty"), "--output", str(tmp_path / "out")])


@pytest.mark.slow
def test_the_ablation_runs_from_teacher_to_submission(interpreter, tmp_path):
    python = interpreter
    counts = ["--num-train", "8", "--num-val", "4", "--num-test", "2"]
    scenes = tmp_path / "scenes"
    subprocess.run([python, "-m", "segdistill.dataset.scenes", scenes, *counts], cwd=ROOT, check=True)
    settings = {
        "python": python,
        "data_dir": str(scenes),
        "output": str(tmp_path / "out"),
        "train_flags": "--input-size 96,192 --batch-size 4 --preload --num-workers 0",
        "teacher_flags": "--num-steps 30",
        "student_flags": "--num-steps 8",
        **{"seeds": "0", "labels": "4", "share": "0.5", "teacher": "train"},
        "is_ho_use": "False",
        "is_pa_use": "TRUE",
        "methods": "--cwd weight=1",
    }
    command = ["bash", "run_train_eval.sh"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"(?i)delta", done.stdout)
    assert (tmp_path / "out/pi_weight=3+pa_on=layer3+cwd_weight=1_seed0/evaluation.json").is_file()
    assert "| all labels" in (tmp_path / "out/report.md").read_text()
    for name in ("report.md", "curves.png", "panel.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    submission = list((tmp_path / "out/submission/labels").glob("*.png"))
    assert len(submission) == 2
    assert Image.open(submission[0]).size == (256, 128)


TERMS = ["--pi", "--pa", "--cwd", "on=layer2:layer3", "--fitnet", "on=layer3"]


@pytest.mark.slow
@pytest.mark.parametrize("terms", [TERMS, ["--ho", "kind=hinge", "preprocess=2"], ["--pi", "void=mask"]])
def test_two_processes_train_as_one(terms, tiny, tmp_path):
    arguments = [
        *("--network", "espnet_c", "--network-options", "p=1", "q=1", "--norm", "sync_batch_norm", "--device", "cpu"),
        *("--dataset", "camvid", "--data-dir", str(tiny / "camvid"), "--input-size", "64,64", "--num-workers", "0"),
        *("--batch-size", "4", "--num-steps", "3", "--optimizer", "sgd", "--lr-g", "0.01", "--log-every", "1"),
        *("--T_ckpt_path", str(tiny / "teacher.pth"), *terms, "--snapshot-dir", str(tmp_path)),
    ]
    with Job([*arguments, "--save-name", "two"], tmp_path / "log", ranks=2, wide=True) as job:
        train.main([*arguments, "--save-name", "one"])
        assert job.wait() == 0, job.log.read_text()
    one, two = (torch.load(tmp_path / name / "last.pth", weights_only=True) for name in ("one", "two"))
    for part in ("student", "losses"):
        for key, value in one[part].items():
            if isinstance(value, torch.Tensor):
                text = f"{part} {key}"
                torch.testing.assert_close(
                    two[part][key], value, rtol=1e-4, atol=1e-5, msg=lambda message, text=text: f"{text}: {message}"
                )
    rows = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]) for name in ("one", "two")]
    for key in rows[0]:
        if key.startswith(("loss", "share")):
            assert rows[1][key] == pytest.approx(rows[0][key], rel=1e-5), key


@pytest.mark.slow
def test_two_processes_without_the_auxiliary_head(tiny, tmp_path):
    """Parameters that no term depends on must not keep the processes waiting."""
    arguments = [
        *("--network", "pspnet", "--aux-weight", "0", "--device", "cpu", "--num-workers", "0"),
        *("--dataset", "camvid", "--data-dir", str(tiny / "camvid"), "--input-size", "64,64", "--batch-size", "4"),
        *("--num-steps", "3", "--snapshot-dir", str(tmp_path), "--save-name", "run"),
    ]
    with Job(arguments, tmp_path / "log", ranks=2) as job:
        assert job.wait() == 0, job.log.read_text()
    assert torch.load(tmp_path / "run/last.pth", weights_only=True)["step"] == 3
