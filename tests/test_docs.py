"""What the documentation says can be done: its code runs, its commands parse, its flags exist."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eval as evaluation
import test as prediction
import train
from segdistill.dataset import DATASETS, CamVid
from segdistill.dataset.__main__ import main as dataset_tool
from segdistill.dataset.files import read_image
from segdistill.network import NETWORKS, load_network
from segdistill.network.__main__ import main as network_tool
from segdistill.utils.checkpoint import load_predictor
from segdistill.utils.losses import DISTILLATION_LOSSES
from segdistill.utils.options import parse_options
from segdistill.utils.report.__main__ import main as report_tool

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PARSERS = {"train.py": parse_options, "eval.py": evaluation.parse_options, "test.py": prediction.parse_options}


def python_block(page, name):
    """The fenced block whose first line names the file ``name``."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.M | re.S)
    return next(code for code in blocks if re.match(rf"# {re.escape(name)}[:\n]", code))


@pytest.fixture
def module_of(tmp_path, monkeypatch):
    """A function that imports a block of extending.md as a module, which is at most 30 lines of code."""

    def load(name):
        code = python_block("extending.md", name)
        assert len([line for line in code.splitlines() if line.strip()]) <= 31
        path = tmp_path / f"documented_{Path(name).name}"
        path.write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        return importlib.import_module(path.stem)

    return load


def train_two_steps(tiny, folder, *more):
    given = set(more)
    defaults = {
        "--dataset": ["camvid", "--data-dir", str(tiny / "camvid")],
        "--network": ["espnet_c", "--network-options", "p=1", "q=1"],
    }
    common = [word for flag, words in defaults.items() if flag not in given for word in (flag, *words)]
    steps = ["--input-size", "64,64", "--batch-size", "2", "--num-steps", "2", "--num-workers", "0", "--log-every", "1"]
    assert train.main([*common, *steps, "--snapshot-dir", str(folder), "--save-name", "run", *more]) == 0
    return [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]


def test_a_loss_of_one_s_own(tiny, tmp_path, monkeypatch, module_of, capsys):
    monkeypatch.setitem(DISTILLATION_LOSSES, "cosine", module_of("utils/losses/cosine.py").Cosine)
    settings = ["--cosine", "weight=2", "power=2", "on=layer2:layer3", "void=mask"]
    rows = train_two_steps(tiny, tmp_path, "--T_ckpt_path", str(tiny / "teacher.pth"), *settings)
    assert all(0 < row["loss/cosine"] < 4 for row in rows if "loss" in row)
    with pytest.raises(SystemExit):
        parse_options(["--list-methods", "cosine"])
    assert re.search(r"power=1\.0 +of the distance, 1 or more", capsys.readouterr().out)


def test_a_network_of_one_s_own(tiny, tmp_path, monkeypatch, module_of):
    monkeypatch.setitem(NETWORKS, "fcn", module_of("network/fcn.py").FCN)
    network = ["--network", "fcn", "--network-options", "width=16", "--norm", "inplace_abn"]
    train_two_steps(tiny, tmp_path, *network, "--T_ckpt_path", str(tiny / "teacher.pth"), "--pi", "--fitnet")
    loaded, report = load_network(tmp_path / "run/best.pth")
    assert report.config == {"name": "fcn", "num_classes": 11, "width": 16}
    assert loaded.features["layer3.pre"] == loaded.features["context"] == (64, 8)


def test_a_data_set_of_one_s_own(tiny, tmp_path, monkeypatch, module_of):
    monkeypatch.setitem(DATASETS, "garden", module_of("dataset/garden.py").Garden)
    for split in ("train", "val"):
        shutil.copytree(tiny / "camvid" / split, tmp_path / "garden/images" / split)
        (tmp_path / "garden/masks" / split).mkdir(parents=True)
        for label in (tiny / "camvid" / f"{split}annot").iterdir():
            values = np.asarray(Image.open(label)) % 4
            Image.fromarray(values).save(tmp_path / "garden/masks" / split / label.name)
    train_two_steps(tiny, tmp_path, "--dataset", "garden", "--data-dir", str(tmp_path / "garden"))
    options = json.loads((tmp_path / "run/options.json").read_text())
    assert (options["optimizer"], options["lr_g"], options["scale_range"]) == ("adam", 1e-3, [0.5, 2.0])
    assert load_network(tmp_path / "run/best.pth")[1].classes == ("grass", "path", "plant")


@pytest.mark.parametrize("name", ["own_loop.py", "own_learner.py"])
def test_a_script_of_one_s_own(run_script, tiny, tmp_path, name):
    (tmp_path / name).write_text(python_block("library.md", name))
    printed = run_script(name, tiny / "camvid", tiny / "teacher.pth", 2)
    assert len(printed.splitlines()) == 2
    assert (tmp_path / "student.pth").exists() == (name == "own_learner.py")


def test_a_prediction_of_one_s_own(run_script, tiny, tmp_path):
    (tmp_path / "own_prediction.py").write_text(python_block("library.md", "own_prediction.py"))
    printed = run_script("own_prediction.py", tiny / "teacher.pth", tiny / "camvid/test/0.png")
    assert re.fullmatch(r"\[[\d ]+\]\n", printed)


@pytest.fixture
def student_onnx(tiny, tmp_path):
    """As the page on deployment has it, and the classes that it is to see in a picture."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    assert network_tool(["export", str(tiny / "teacher.pth"), str(tmp_path / "student.onnx")]) == 0
    image = read_image(tiny / "camvid/test/0.png")
    return load_predictor(tiny / "teacher.pth", CamVid).predict(image)


@pytest.mark.slow
def test_a_picture_s_classes_without_this_project(run_script, tiny, tmp_path, student_onnx):
    (tmp_path / "run.py").write_text(python_block("deploy.md", "run.py"))
    printed = run_script("run.py", "student.onnx", tiny / "camvid/test/0.png")
    counts = {CamVid.CLASSES[index]: count for index, count in enumerate(np.bincount(student_onnx.flat)) if count}
    assert printed.splitlines() == [f"{name} {count}" for name, count in counts.items()]


@pytest.mark.slow
def test_a_picture_s_classes_in_cpp(tiny, tmp_path, student_onnx):
    openvino = Path(pytest.importorskip("openvino").__file__).parent
    if not shutil.which("g++"):
        pytest.skip("there is no g++")
    (code,) = re.findall(r"^```cpp\n(.*?)^```$", (ROOT / "docs/deploy.md").read_text(), re.M | re.S)
    (tmp_path / "run.cpp").write_text(code)
    build = re.search("^// (g.+)$", code, re.M)[1]
    Image.open(tiny / "camvid/test/0.png").save(tmp_path / "picture.ppm")
    command = f"{build} && ./run student.onnx picture.ppm ids.pgm"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=os.environ | {"OV": str(openvino)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.asarray(Image.open(tmp_path / "ids.pgm")), student_onnx)


@pytest.fixture
def run_script(interpreter, tmp_path):
    """What a script, in the folder of the test, prints."""

    def run(*words):
        command = [interpreter, *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def written_commands():
    """Every shell line of a page's indented blocks and of a script's head, with where it stands."""
    lines = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S).replace("\\\n", " ")
        lines += [(page.name, line) for line in re.findall(r"^ {4}(\S.*)", text, re.M)]
    for script in [*ROOT.glob("*.sh"), *ROOT.glob("experiments/*.sh")]:
        lines += [(script.name, line) for line in re.findall(r"^# {3}(\S.*bash .*)", script.read_text(), re.M)]
    return lines


ENVIRONMENT = r"(?:\w+=(?:\"[^\"]*\"|\S*) +)*"
PYTHON_COMMANDS = [
    pair for pair in written_commands() if re.match(rf"{ENVIRONMENT}python (train|eval|test)\.py", pair[1])
]
SHELL_COMMANDS = [pair for pair in written_commands() if re.match(rf"{ENVIRONMENT}bash ", pair[1])]


@pytest.fixture
def concrete(tmp_path):
    """A function that puts what exists in the place of DIR, FILE and every .pth."""
    (tmp_path / "file.pth").touch()
    (tmp_path / "options.json").write_text("{}")
    (tmp_path / "my_losses.py").write_text(python_block("extending.md", "utils/losses/cosine.py"))
    (tmp_path / "my.py").write_text(python_block("external.md", "my.py"))
    (tmp_path / "teacher.onnx").write_bytes(b"\x08\x09")
    for name in ("train/0001TP_0.png", "train/0016E5_0.png", "val/0.png"):  # of CamVid
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def replace(text):
        text = re.sub(r"snapshots/\w+/(options.json)|\b(my_losses.py|my.py|teacher.onnx)", rf"{tmp_path}/\1\2", text)
        text = re.sub(r"[\w/+.-]+\.pth\b|hf://USER/REPO\b|\bFILE\b", str(tmp_path / "file.pth"), text)
        return re.sub(r"\b(DIR|FOLDER|OUT|PHOTOS)\b", str(tmp_path), text)

    return replace


@pytest.fixture
def extended(monkeypatch, module_of):
    monkeypatch.setitem(DISTILLATION_LOSSES, "cosine", module_of("utils/losses/cosine.py").Cosine)
    monkeypatch.setitem(NETWORKS, "fcn", module_of("network/fcn.py").FCN)
    monkeypatch.setitem(DATASETS, "garden", module_of("dataset/garden.py").Garden)


def assert_parses(script, words):
    code = 0
    try:
        PARSERS[script](words)
    except SystemExit as stop:  # --list-methods ends the program too
        code = stop.code
    assert not code, (script, words)


@pytest.mark.parametrize(("page", "command"), PYTHON_COMMANDS, ids=[" ".join(pair)[:70] for pair in PYTHON_COMMANDS])
def test_a_command_of_the_documentation_parses(page, command, concrete, extended):
    words = shlex.split(concrete(command), comments=True)
    start = words.index("python")
    assert_parses(words[start + 1], words[start + 2 :])


@pytest.mark.parametrize(("page", "command"), SHELL_COMMANDS, ids=[" ".join(pair)[:70] for pair in SHELL_COMMANDS])
def test_a_script_of_the_documentation_calls_commands_that_parse(page, command, concrete, tmp_path):
    """With an interpreter that notes its arguments and does nothing."""
    python, log = tmp_path / "python", tmp_path / "log"
    note = f"import json, sys; print(json.dumps(sys.argv[1:]), file=open({str(log)!r}, 'a'))"
    python.write_text(f"#!{sys.executable} -IS\n{note}\n")
    python.chmod(0o755)
    settings = {"python": str(python), "output": str(tmp_path / "out")}
    done = subprocess.run(
        ["bash", "-c", concrete(command)],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    calls = [json.loads(concrete(line)) for line in log.read_text().splitlines()]
    assert calls
    for script, *words in calls:
        if (name := Path(script).name) in PARSERS:
            assert_parses(name, words)


@pytest.fixture
def flags(capsys):
    """Every flag of the three commands and of the tools for networks and data sets."""
    for parse in PARSERS.values():
        with pytest.raises(SystemExit):
            parse(["--help"])
    for command in ("convert", "export", "fetch", "push", "pspnet"):
        with pytest.raises(SystemExit):
            network_tool([command, "--help"])
    with pytest.raises(SystemExit):
        dataset_tool(["convert", "--help"])
    with pytest.raises(SystemExit):
        report_tool(["--help"])
    own = {*(f"--{flag}" for flag in DISTILLATION_LOSSES), "--all"}  # --all is of the tests
    return own | {*re.findall(r"--[\w-]+", capsys.readouterr().out)}


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_flag_of_the_documentation_exists(page, flags):
    text = page.read_text().partition("## From the originals")[0]
    spans = re.findall(r"`(--[^`]+)`", text)
    assert {flag for span in spans for flag in re.findall(r"--[\w-]+", span)} <= flags


def conversions():
    """The right-hand sides of the tables of other libraries' losses; tests/test_originals.py has the others."""
    section = (ROOT / "docs/methods.md").read_text().partition("### mmrazor")[2]
    cells = [row.split(" | ")[-1] for row in section.splitlines() if row.startswith("| ")]
    return [span for cell in cells for span in re.findall(r"`(--[^`]+)`", cell)]


@pytest.mark.parametrize("flags", conversions())
def test_what_an_original_s_flag_becomes_parses(flags, concrete):
    assert_parses("train.py", ["--check", *concrete(flags).replace("=W", "=1").split()])
