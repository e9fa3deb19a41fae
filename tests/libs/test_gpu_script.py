"""benchmarks/gpu.sh with stubs for the build, the interpreter and the GPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Answers for torch, runs the other -c commands, and fails the command that FAIL names.
PYTHON = f"""#!/bin/sh
case "$*" in
    *get_device_capability*) echo 9.0 ;;
    -c*) exec "{sys.executable}" "$@" ;;
    *"$FAIL"*) exit 3 ;;
esac
"""
MEASUREMENTS = ("-m pytest", "benchmarks/abn.py", "benchmarks/memory.py", "benchmarks/distill_step.py")


@pytest.fixture
def gpu_script(tmp_path):
    """Runs the script in a folder of its own; why the CUDA kernels are inactive, what fails -> status, said, runs."""
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks" / "gpu.sh", tmp_path / "benchmarks")
    package = tmp_path / "stubs" / "segdistill" / "libs"
    package.mkdir(parents=True)
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "build.sh").write_text('printf "%b\\n" "$BUILD_LINES"; exit ${BUILD_STATUS:-0}\n')
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)

    def run(reason, fail="nothing", **environment):
        (package / "__init__.py").write_text(f"FALLBACK = {{'cuda': {reason!r}}}\n")
        environment |= {"PYTHON": str(tmp_path / "python"), "PYTHONPATH": str(tmp_path / "stubs"), "FAIL": fail}
        command = ["bash", "benchmarks/gpu.sh"]
        process = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
        )
        (result,) = (tmp_path / "benchmarks" / "results").glob("*_gpu.json")
        assert f"written: benchmarks/results/{result.name}" in process.stdout
        return process.returncode, process.stdout, json.loads(result.read_text())["runs"]

    return run


def test_everything_is_measured(gpu_script):
    status, said, runs = gpu_script(None)
    assert status == 0
    assert all(any(name in run["command"] for run in runs) for name in MEASUREMENTS)
    assert not any(run["status"] for run in runs[2:])  # after the commit and the driver, which may be unknown
    assert "failed" not in said


@pytest.mark.parametrize("fail", MEASUREMENTS)
def test_a_failure_does_not_keep_the_rest_from_being_measured(gpu_script, fail):
    status, said, runs = gpu_script(None, fail)
    assert status != 0
    assert all(any(name in run["command"] for run in runs) for name in MEASUREMENTS)
    lines = [line for line in said.splitlines() if line.startswith("failed: ")]
    assert lines
    assert all(fail in line for line in lines)
    failed = [run["command"] for run in runs if run["status"] == 3]
    assert failed
    assert all(fail in command for command in failed)


@pytest.mark.parametrize("build", ["0", "1"])
def test_pure_pytorch_is_not_measured_in_place_of_the_kernels(gpu_script, build):
    status, said, runs = gpu_script("not built", BUILD_STATUS=build)
    assert status != 0
    assert "the CUDA kernels are not active: not built" in said
    assert not any(name in run["command"] for run in runs for name in MEASUREMENTS)


def test_the_lines_of_a_command_are_kept(gpu_script):
    _, _, runs = gpu_script(None, BUILD_LINES="built\n= 2 of 3\nlinked")
    (build,) = [run for run in runs if "build.sh" in run["command"]]
    assert build["lines"] == ["built", "= 2 of 3", "linked"]
