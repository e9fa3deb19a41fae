"""The compiled kernels are optional: what happens without them, without a compiler and with a broken file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from segdistill.libs import FALLBACK, extension, sources
from segdistill.libs import __main__ as implementations
from segdistill.libs.sources import library_path

ROOT = Path(__file__).parents[2]
TRAIN = """
import torch
from segdistill.libs import FALLBACK, InPlaceABN
assert all(FALLBACK.values()), FALLBACK
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), InPlaceABN(4))
net(torch.randn(2, 3, 8, 8)).square().sum().backward()
assert all(torch.isfinite(p.grad).all() for p in net.parameters())
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the build needs, without built kernels."""
    shutil.copytree(ROOT / "libs", tmp_path / "libs", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(ROOT / "setup.py", tmp_path)
    (tmp_path / "segdistill").mkdir()
    (tmp_path / "segdistill" / "libs").symlink_to("../libs")  # found before the installed one
    return tmp_path


@pytest.fixture
def not_installed(tmp_path):
    """A checkout while pip installs it: no segdistill can be imported. The compiler is a stub, and there is no nvcc."""
    shutil.copytree(ROOT / "libs", tmp_path / "libs", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(ROOT / "setup.py", tmp_path)
    hidden = tmp_path / "hidden" / "segdistill"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError('segdistill is not installed')\n")
    compiler = 'for last; do :; done; echo kernels >"$last"; exit ${COMPILER_STATUS:-0}'
    tools = link_tools(tmp_path, "rm", "mv", "find", "dirname", "basename", "uname", "sh")
    (tools / "c++").write_text(f"#!/bin/sh\n{compiler}\n")
    (tools / "c++").chmod(0o755)
    environment = {"PYTHONPATH": str(hidden.parent), "PATH": str(tools), "CXX": "c++", "NVCC": "", "CUDA_HOME": ""}
    return SimpleNamespace(folder=tmp_path, environment=environment)


def link_tools(folder, *names):
    tools = folder / "tools"
    tools.mkdir()
    for name in names:
        (tools / name).symlink_to(shutil.which(name))
    return tools


def run(command, folder, **environment):
    environment = {**os.environ, "PYTHON": sys.executable, "SEGDISTILL_ABN": "auto", **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_without_a_compiler_the_build_fails_and_everything_else_works(checkout):
    tools = link_tools(checkout, "sh", "dirname", "basename", "find", "mv", "rm", "uname")
    build = run(["/bin/sh", "libs/build.sh"], checkout, PATH=str(tools))
    assert build.returncode != 0
    install = run([sys.executable, "setup.py", "-q", "build_kernels"], checkout, PATH=str(tools))
    assert install.returncode == 0, install.stderr
    assert "will run in pure PyTorch" in install.stderr
    train = run([sys.executable, "-c", TRAIN], checkout, PATH=str(tools))
    assert train.returncode == 0, train.stderr
    assert train.stderr == ""


SETUP = [sys.executable, "setup.py", "-q", "build_kernels"]


@pytest.mark.parametrize("command", [["/bin/sh", "libs/build.sh"], pytest.param(SETUP, marks=pytest.mark.slow)])
def test_the_build_needs_no_installed_package(not_installed, command):
    build = run(command, not_installed.folder, **not_installed.environment)
    assert build.returncode == 0, build.stderr
    assert "pure PyTorch" not in build.stderr
    assert [path.name for path in not_installed.folder.glob("libs/*.so")] == [library_path("cpu").name]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_installation_compiles_cuda_only_for_a_gpu(not_installed):
    """``sh libs/build.sh`` does wherever it finds nvcc."""
    nvcc = not_installed.folder / "tools/nvcc"
    nvcc.write_text("#!/bin/sh\nexit 3\n")
    nvcc.chmod(0o755)
    environment = not_installed.environment | {"NVCC": str(nvcc)}
    (not_installed.folder / "tools/readlink").symlink_to(shutil.which("readlink"))
    (not_installed.folder / "tools/tr").symlink_to(shutil.which("tr"))
    assert "pure PyTorch" not in run(SETUP, not_installed.folder, **environment).stderr
    assert run(["/bin/sh", "libs/build.sh"], not_installed.folder, **environment).returncode == 3


def test_a_failed_build_leaves_no_part_of_a_file(not_installed):
    build = run(["/bin/sh", "libs/build.sh"], not_installed.folder, **not_installed.environment, COMPILER_STATUS="3")
    assert build.returncode == 3
    assert not list(not_installed.folder.glob("libs/*.so"))


def test_a_broken_file_costs_one_line(checkout, monkeypatch, caplog, capsys):
    monkeypatch.setattr(sources, "FOLDER", checkout / "libs")
    name = library_path("cpu").name
    (checkout / "libs" / name).write_bytes(b"not a library")
    reason = extension.load_kernels("cpu")
    (record,) = caplog.records
    assert name in record.getMessage()
    monkeypatch.setitem(FALLBACK, "cpu", reason)
    assert implementations.main([]) == 0
    assert capsys.readouterr().out.startswith(f"cpu: pure PyTorch ({reason})\ncuda: ")


def test_the_command_compiles_where_the_package_is(not_installed, monkeypatch):
    monkeypatch.setattr(implementations, "FOLDER", not_installed.folder / "libs")
    for name, value in not_installed.environment.items():
        monkeypatch.setenv(name, value)
    assert implementations.main(["build", "cpu"]) == 0
    assert [path.name for path in not_installed.folder.glob("libs/*.so")] == [library_path("cpu").name]


def test_changed_sources_retire_the_built_file(checkout, monkeypatch):
    built = library_path("cpu")
    monkeypatch.setattr(sources, "FOLDER", checkout / "libs")
    assert library_path("cpu").name == built.name
    source = checkout / "libs/src/abn.h"
    source.write_text(source.read_text() + "// changed\n")
    assert library_path("cpu").name != built.name
    assert extension.load_kernels("cpu") == "not built from the present sources; python -m segdistill.libs build"


def test_choice_of_implementation_is_checked_and_obeyed(monkeypatch):
    monkeypatch.setenv("SEGDISTILL_ABN", "python")
    assert [extension.load_kernels(device) for device in ("cpu", "cuda")] == ["SEGDISTILL_ABN=python"] * 2
    monkeypatch.setenv("SEGDISTILL_ABN", "fast")
    with pytest.raises(ValueError, match="SEGDISTILL_ABN='fast'; known: auto, python"):
        extension.load_kernels("cpu")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_loaded_kernels_are_registered_for_their_device(device):
    if FALLBACK[device]:
        pytest.skip(f"no compiled kernels: {FALLBACK[device]}")
    for name in ("abn_moments", "abn_forward_", "abn_sums", "abn_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"segdistill::{name}", device.upper())
