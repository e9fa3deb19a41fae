"""The wheel alone, in an empty folder: the commands, the default ablation, a student that goes to a hub and back."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hub_server import TOKEN, started_hub

ROOT = Path(__file__).parents[1]
PACKED = ("dataset", "libs", "network", "utils", "experiments", "ckpt", "setup.py", "pyproject.toml", "README.md")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Builds and installs the wheel; a function that runs a command in a folder where nothing else of ours is."""
    # Not imported: setuptools refuses to be where distutils was imported before.
    if find_spec("pip") is None or find_spec("setuptools") is None:
        pytest.skip("no pip, or no setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    source, venv, empty = (folder / name for name in ("source", "venv", "empty"))
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for path in [*(ROOT / name for name in PACKED), *ROOT.glob("*.py"), *ROOT.glob("*.sh"), ROOT / "LICENSE"]:
        if path.is_dir():
            shutil.copytree(path, source / path.name, ignore=ignored)
        else:
            source.mkdir(exist_ok=True)
            shutil.copy(path, source)
    (source / "libs/_C_cpu_0.so").write_bytes(b"compiled for this platform")
    (source / "mine.py").touch()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-build-isolation", "--no-deps", "-w", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (libraries,) = venv.glob("lib/*/site-packages")
    # What this environment has, without its own installation of the package: .pth files of these folders are not read.
    (libraries / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    subprocess.run([*pip, "--python", venv / "bin/python", "install", "--no-deps", wheel], check=True)
    empty.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}

    def run(*words, **more):
        start = (
            [venv / "bin/python", "-m"] if words and words[0].startswith("segdistill.") else [venv / "bin/segdistill"]
        )
        command = [str(word) for word in (*start, *words)]
        done = subprocess.run(command, cwd=empty, env=environment | more, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    run.folder, run.wheel, run.package = empty, wheel, libraries / "segdistill"
    run("scenes", "data/scenes", "--num-train", "8", "--num-val", "4", "--num-test", "2")
    return run


def test_the_wheel_fits_every_platform_and_holds_nothing_compiled(installed):
    assert installed.wheel.name.endswith("-py3-none-any.whl")
    files = {path.relative_to(installed.package).as_posix() for path in installed.package.rglob("*")}
    assert not [name for name in files if name.endswith(".so")]
    assert {"train.py", "test.sh", "ckpt/scenes_teacher.pth", "libs/src/abn_cpu.cpp", "libs/build.sh"} <= files
    assert {"experiments/compare.sh", "experiments/class_maps/cityscapes_to_camvid.txt"} <= files
    assert "experiments/cluster/slurm.sbatch" in files
    assert {"network/export/page.html", "utils/report/report.html"} <= files
    assert files.isdisjoint({"setup.py", "mine.py", "tests"})


def test_the_description_has_no_link_that_leads_nowhere(installed):
    (metadata,) = installed.package.parent.glob("segdistill-*.dist-info/METADATA")
    text = metadata.read_text()
    assert "# segdistill" in text
    assert all(target.startswith("http") for target in re.findall(r"\]\((.*?)\)", text))


def test_the_commands_answer(installed):
    overview = installed()
    assert len(overview.splitlines()) < 24
    for name in ("train", "eval", "test", "network", "dataset", "report", "originals", "run"):
        assert f"\n  {name} " in overview
    assert "parameters" in installed("network", "pspnet", "backbone=resnet18")
    assert "python train.py --random-scale" in installed(
        "originals", "python", "train_kd.py", "--student-model", "pspnet"
    )
    assert "compare" in installed("run", "--help")
    # The teacher that comes with the package is found by the name that the documents give it.
    words = ["--data-dir", "data/scenes", "--T_ckpt_path", "ckpt/scenes_teacher.pth", "--pi", "--batch-size", "2"]
    installed("segdistill.train", "--check", *words)
    installed("train", "--check", *words)


def test_the_ablation_runs_in_the_current_folder_and_its_student_goes_to_a_hub_and_back(installed):
    settings = [
        "seeds=0",
        "jobs=1",
        "labels=4",
        "train_flags=--num-workers 0",
        "student_flags=--num-steps 2 --batch-size 2",
    ]
    printed = installed("run", *settings)
    assert "distilled by pixel-wise distillation (pi) and pair-wise distillation (pa)" in printed
    output = installed.folder / "snapshots/ablation_scenes"
    assert (output / "report.md").is_file()
    assert (output / "report.html").is_file()
    assert (output / "submission/cityscapes.zip").is_file()
    assert {path.name for path in installed.folder.iterdir()} == {"data", "snapshots"}

    (student,) = output.glob("pi*_seed0/best.pth")
    with started_hub() as hub:
        place = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(installed.folder.parent / "cache")}
        assert f"{hub.url}/me/small" in installed("network", "push", student, "me/small", **place, HF_TOKEN=TOKEN)
        scores = installed(
            "eval", "--dataset", "scenes", "--data-dir", "data/scenes", "--checkpoint", "hf://me/small", **place
        )
    assert "mIoU" in scores
    offline = installed(
        "eval",
        "--dataset",
        "scenes",
        "--data-dir",
        "data/scenes",
        "--checkpoint",
        "hf://me/small",
        **place,
        HF_HUB_OFFLINE="1",
    )
    assert offline == scores
