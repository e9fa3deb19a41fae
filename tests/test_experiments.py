"""Every recipe of experiments/ from end to end, in a few steps on generated scenes."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from forks import chance
from torchvision.models import mobilenet_v2

from segdistill.dataset import CamVid
from segdistill.dataset.normalization import IMAGENET
from segdistill.dataset.scenes.generator import generate
from segdistill.libs.files import sha256_of
from segdistill.network import load_network
from segdistill.network.weights.checkpoint import atomic_save, export_weights
from segdistill.utils.report import read_run

ROOT = Path(__file__).parents[1]
SCRIPTS = {path.stem for path in (ROOT / "experiments").glob("*.sh")} - {"common", "compare", "search"}
BASELINE = "camvid_mobilenetv2"
COMPARISONS = {name for name in SCRIPTS if name.startswith("camvid")} - {BASELINE, "camvid_transfer"}
# One of each kind of student; of the others their networks and terms are built, which is where they differ.
WHOLE = {"cirkd_deeplabv3_r18", "skd_cityscapes", "voc_deeplabv3plus"}
CHECKED = SCRIPTS - COMPARISONS - WHOLE - {"long_plain", "cityscapes_hours", BASELINE, "camvid_transfer"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, worker_id):
    """Scenes and teachers that the recipes share, those of all workers."""
    folder = tmp_path_factory.getbasetemp()
    return (folder if worker_id == "master" else folder.parent) / "smoke"


def run_recipe(name, folder, interpreter, **settings):
    settings |= {"SMOKE": "1", "smoke": str(folder), "python": interpreter}
    command, environment = ["bash", f"experiments/{name}.sh"], os.environ | settings
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CHECKED))
def test_a_recipe_fits_its_networks(name, folder, interpreter):
    run_recipe(name, folder, interpreter, check="only")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WHOLE))
def test_recipe_runs_from_end_to_end(name, folder, interpreter):
    run_recipe(name, folder, interpreter)
    (report,) = folder.glob(f"{name}*/report.md")
    assert len(list(report.parent.glob("*_seed0/evaluation.json"))) == 2, "alone and distilled"
    (distilled,) = report.parent.glob("*_seed0/teacher.json")
    last = json.loads((distilled.parent / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 3
    assert {key for key in last if key.startswith("loss/")} > {"loss/cross_entropy"}


def assert_equal_time(folder, methods, hours):
    """Each method has as many steps as its measured cost allows within the hours, and is in the report."""
    report = (folder / "report.md").read_text()
    for name in methods:
        costs = read_run(folder / "cost" / name).cost
        steps = int(3600 * hours / (costs["step"] + costs["teacher"]))
        run = read_run(folder / f"{name}_seed0")
        assert run.options["num_steps"] == run.metrics[-1]["step"] == steps
        assert re.search(rf"^\| {name} .*\| +{steps} \|", report, re.M)
        assert (name == "alone") == (costs["teacher"] == 0)
        assert [row["step"] for row in run.metrics if "val/mean_iou" in row] == [steps]


@pytest.mark.slow
def test_plain_distillation_and_the_student_alone_have_the_same_hours(folder, interpreter):
    run_recipe("long_plain", folder, interpreter)
    assert_equal_time(folder / "long_plain", ("alone", "logits", "features"), 0.0004)


@pytest.mark.slow
def test_the_methods_of_a_pair_fit_its_networks(folder, interpreter):
    run_recipe("cityscapes_hours", folder, interpreter, check="only", pair="dist")


def start(interpreter, tiny, folder, script="compare", **settings):
    """A comparison as a process group of its own."""
    environment = os.environ | {
        "python": interpreter,
        **{"dataset": "camvid", "data_dir": str(tiny / "camvid"), "teacher": str(tiny / "teacher.pth")},
        "student": "--network espnet_c --network-options p=1 q=1",
        "methods": "\n  cwd: --cwd weight=3\n  both: --pi --fitnet on=layer3\n",
        "flags": "--input-size 64,64 --batch-size 4 --num-steps 3 --num-workers 0 --save-every 1",
        **{"seeds": "0", "output": str(folder), **settings},
    }
    command, pipes = ["bash", f"experiments/{script}.sh"], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, start_new_session=True, **pipes)


def compare(*args, **settings):
    """What became of a comparison, and what it said."""
    process = start(*args, **settings)
    _, errors = process.communicate()
    return process.returncode, errors


@pytest.mark.slow
def test_a_comparison_that_is_killed_continues_with_the_same_command(interpreter, tiny, tmp_path):
    settings = {"labels": "2", "share": "0.5", "cache": str(tmp_path / "cache"), "views": "2"}
    killed = start(interpreter, tiny, tmp_path / "out", **settings)
    while not (tmp_path / "out/both_seed0/best.pth").exists():  # written at the last step, before the evaluations
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = (tmp_path / "out/both_seed0/best.pth").read_bytes()
    code, errors = compare(interpreter, tiny, tmp_path / "out", **settings)
    assert code == 0, errors[-3000:]
    report = (tmp_path / "out/report.md").read_text()
    assert all(f"| {name}" in report for name in ("alone", "cwd", "both"))
    assert (tmp_path / "out/both_seed0/best.pth").read_bytes() == before


def runs_of(folder):
    """Of each run of a search the digest of its best weights, and its scores."""
    runs = {}
    for path in folder.glob("*/best.pth"):
        rows = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        scores = {row["step"]: row["val/mean_iou"] for row in rows if "val/mean_iou" in row}
        runs[path.parent.name] = sha256_of(path), scores
    return runs


@pytest.mark.slow
def test_a_search_that_is_killed_is_continued_by_two_processes_to_the_same_bits(interpreter, tiny, tmp_path):
    pytest.importorskip("optuna", reason="Optuna is not installed")
    settings = {"script": "search", "space": "--pi weight=1,10 | --cwd weight=0.1,3", "beside": "2"}
    settings["flags"] = "--input-size 64,64 --batch-size 4 --num-steps 4 --val-every 2 --save-every 1 --num-workers 0"
    code, errors = compare(interpreter, tiny, tmp_path / "whole", **settings)
    assert code == 0, errors[-3000:]
    killed = start(interpreter, tiny, tmp_path / "parts", **settings)
    while not (tmp_path / "parts/cwd_weight_3/last.pth").exists():  # in the second group
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.05)
    time.sleep(chance.random())
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    for process in [start(interpreter, tiny, tmp_path / "parts", **settings) for _ in range(2)]:
        printed, errors = process.communicate()
        assert process.returncode == 0, errors[-3000:]
        assert len(re.findall(r"^\| --(?:pi|cwd) weight=", printed, re.M)) == 4
    whole = runs_of(tmp_path / "whole")
    assert len(whole) == 5
    assert runs_of(tmp_path / "parts") == whole


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(COMPARISONS))
def test_an_experiment_on_camvid_runs_from_end_to_end(script, interpreter, tiny, tmp_path):
    settings = {"methods": "pi: --pi", "sequence": "[01]", "student_file": str(tiny / "teacher.pth")}
    code, errors = compare(interpreter, tiny, tmp_path, script, **settings)
    assert code == 0, errors[-3000:]
    runs = {path.parent.name for path in tmp_path.glob("*/evaluation.json")}
    assert runs == {"alone_seed0", "pi_seed0", "teacher"}


@pytest.mark.slow
def test_methods_are_compared_at_equal_time(interpreter, tiny, tmp_path):
    flags = "--input-size 64,64 --num-workers 0"
    settings = {"methods": "cwd: --cwd weight=3", "num_steps": "7", "batch_size": "2", "flags": flags}
    settings |= {"parts": "methods shorter labels longer teachers", "few": "2", "weaker": str(tiny / "teacher.pth")}
    code, errors = compare(interpreter, tiny, tmp_path, "camvid_transfer", **settings)
    assert code == 0, errors[-3000:]
    runs = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.glob("*/*_seed0/evaluation.json")}
    of_parts = {"methods": ("alone", "cwd"), "shorter": ("dist",)}
    of_parts |= dict.fromkeys(("labels", "longer", "teacher"), ("alone", "dist"))
    assert runs == {f"{part}/{name}_seed0" for part, names in of_parts.items() for name in names}
    for part, alone, distilled in (("shorter", 7, 5), ("longer", 16, 11)):
        report = (tmp_path / part / "report.md").read_text()
        assert re.search(rf"^\| alone .*\| +{alone} \|", report, re.M)
        assert re.search(rf"^\| dist .*\| +{distilled} \|", report, re.M)


@pytest.mark.slow
def test_the_baseline_on_camvid_runs_from_end_to_end(interpreter, tiny, tmp_path):
    weights = mobilenet_v2(num_classes=1).state_dict()
    torch.save(
        {key: value for key, value in weights.items() if not key.startswith("classifier")}, tmp_path / "mobile.pth"
    )
    settings = {
        "backbone": str(tmp_path / "mobile.pth"),
        "data_dir": str(tiny / "camvid"),
        "output": str(tmp_path / "out"),
    }
    settings |= {"python": interpreter, "num_steps": "2", "seeds": "0", "without": "colours"}
    settings |= {"flags": "--input-size 64,64 --batch-size 2 --warmup 1 --num-workers 0"}
    command, environment = ["bash", f"experiments/{BASELINE}.sh"], os.environ | settings
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.parent.name for path in tmp_path.glob("out/*/evaluation.json")} == {
        "all_seed0",
        "without_colours_seed0",
    }
    assert "without_colours_seed0" in done.stdout


@pytest.mark.slow
def test_a_teacher_of_other_classes_is_scored_by_its_class_map(interpreter, tiny, tmp_path):
    network, _ = load_network(tiny / "teacher.pth")
    theirs = [f"their {name}" for name in CamVid.CLASSES]
    atomic_save(export_weights(network, IMAGENET, classes=theirs), tmp_path / "theirs.pth")
    pairs = zip(theirs, CamVid.CLASSES, strict=True)
    (tmp_path / "map.txt").write_text("".join(f"{one} -> {other}\n" for one, other in pairs))
    flags = f"--teacher-scale 1 --class-map {tmp_path / 'map.txt'}"
    settings = {"teacher": str(tmp_path / "theirs.pth"), "teacher_flags": flags, "methods": "pi: --pi"}
    code, errors = compare(interpreter, tiny, tmp_path / "out", **settings)
    assert code == 0, errors[-3000:]
    evaluation = json.loads((tmp_path / "out/teacher/evaluation.json").read_text())
    assert evaluation["protocol"]["class_map"] == str(tmp_path / "map.txt")
    assert re.search(r"\| teacher +\| 100.00 ", (tmp_path / "out/report.md").read_text())


@pytest.fixture
def depth(tmp_path):
    """Settings of a comparison of depth on tiny scenes."""
    generate(tmp_path / "scenes", 4, 2, 1, size=(64, 128))
    settings = {
        "task": "depth",
        "dataset": "scenes",
        "data_dir": str(tmp_path / "scenes"),
        "methods": "",
        "labels": "2",
    }
    settings |= {"teacher": str(ROOT / "ckpt/scenes_depth_teacher.pth"), "teacher_flags": "--teacher-scale 2"}
    return settings | {"flags": "--input-size 64,128 --batch-size 2 --num-steps 2 --val-every 1 --num-workers 0"}


@pytest.mark.slow
def test_depth_is_compared(interpreter, tiny, tmp_path, depth):
    code, errors = compare(interpreter, tiny, tmp_path / "out", **depth)
    assert code == 0, errors[-3000:]
    report = (tmp_path / "out/report.md").read_text()
    assert all(text in report for text in ("δ1", "| alone ", "| depth ", "| depth+pa "))
    assert json.loads((tmp_path / "out/teacher/evaluation.json").read_text())["task"] == "depth"


@pytest.mark.slow
def test_depth_is_searched(interpreter, tiny, tmp_path, depth):
    pytest.importorskip("optuna", reason="Optuna is not installed")
    settings = {"flags": f"{depth['flags']} --task-weight 0", "space": "--depth weight=1,10"}
    settings |= {"labels": "", "share": ""}
    code, errors = compare(interpreter, tiny, tmp_path / "out", "search", **depth | settings)
    assert code == 0, errors[-3000:]
    report = (tmp_path / "out/report.md").read_text()
    # The last is in the command that confirms.
    assert all(text in report for text in ("δ1", "| --depth weight=1 ", "| --depth weight=10 ", "task=depth"))


def test_a_method_without_a_name_is_refused(interpreter, tiny, tmp_path):
    code, errors = compare(interpreter, tiny, tmp_path, methods="--cwd weight=3")
    assert code == 2
    assert "cwd: --cwd weight=3" in errors


HOURS = {"flags": "--input-size 64,64 --batch-size 4 --num-workers 0", "hours": "0.0002", "cost_steps": "3"}


@pytest.mark.slow
def test_a_comparison_at_equal_time_is_measured_once(interpreter, tiny, tmp_path):
    code, errors = compare(interpreter, tiny, tmp_path, **HOURS)
    assert code == 0, errors[-3000:]
    assert_equal_time(tmp_path, ("alone", "cwd", "both"), 0.0002)
    before = {path: path.read_bytes() for path in tmp_path.glob("*_seed0/best.pth")}
    shutil.rmtree(tmp_path / "cwd_seed0")  # what is missing gets the steps that were found at first
    code, errors = compare(interpreter, tiny, tmp_path, **HOURS)
    assert code == 0, errors[-3000:]
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hours": "two"}, "hours: expected a number, not 'two'"),
        ({"flags": "--num-steps 9"}, "hours and --num-steps both say how long"),
        ({"cache": "out"}, "hours: what a cached teacher costs"),
        ({"teacher_flags": "--teacher-cache out"}, "hours: what a cached teacher costs"),
    ],
)
def test_hours_that_cannot_be_obeyed_are_one_line(interpreter, tiny, tmp_path, settings, message):
    code, errors = compare(interpreter, tiny, tmp_path / "out", **HOURS | settings)
    assert code == 2
    assert errors.count("\n") == 1
    assert message in errors
    assert not (tmp_path / "out").exists()
