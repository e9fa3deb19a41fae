"""benchmarks/gpu.sh with stubs for the build, the interpreter and the GPU."""

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
    """Runs the script in a folder of its own; why the CUDA kernels are inactive, and what fails -> process, report."""
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks" / "gpu.sh", tmp_path / "benchmarks")
    package = tmp_path / "stubs" / "segdistill" / "libs"
    package.mkdir(parents=True)
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "build.sh").write_text("exit ${BUILD_STATUS:-0}\n")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)

    def run(reason, fail="nothing", **environment):
        (package / "__init__.py").write_text(f"FALLBACK = {{'cuda': {reason!r}}}\n")
        environment |= {"PYTHON": str(tmp_path / "python"), "PYTHONPATH": str(tmp_path / "stubs"), "FAIL": fail}
        command = ["bash", "benchmarks/gpu.sh"]
        process = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
        )
        (report,) = (tmp_path / "benchmarks" / "results").glob("*_gpu.txt")
        assert f"written: benchmarks/results/{report.name}" in process.stdout
        return process.returncode, report.read_text()

    return run


def test_everything_is_measured(gpu_script):
    status, report = gpu_script(None)
    assert status == 0
    assert all(name in report for name in MEASUREMENTS)
    assert "failed" not in report


@pytest.mark.parametrize("fail", MEASUREMENTS)
def test_a_failure_does_not_keep_the_rest_from_being_measured(gpu_script, fail):
    status, report = gpu_script(None, fail)
    assert status != 0
    assert all(name in report for name in MEASUREMENTS)
    lines = report.split("failed: ", 1)[1].splitlines()
    assert lines
    assert all(fail in line for line in lines)


@pytest.mark.parametrize("build", ["0", "1"])
def test_pure_pytorch_is_not_measured_in_place_of_the_kernels(gpu_script, build):
    status, report = gpu_script("not built", BUILD_STATUS=build)
    assert status != 0
    assert "the CUDA kernels are not active: not built" in report
    assert not any(name in report for name in MEASUREMENTS)
