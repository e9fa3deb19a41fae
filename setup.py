"""Compiles the optional kernels of in-place ABN where it can; the rest of the packaging is in pyproject.toml."""

import os
import subprocess
import sys

from setuptools import Command, find_packages, setup
from setuptools.command.build import build


class BuildKernels(Command):
    """Run libs/build.sh if torch is there, for CUDA too if torch sees a GPU. No outcome fails the installation."""

    description = "compile the kernels of in-place ABN, if torch and a compiler are there"
    user_options = []
    editable_mode = False
    build_lib = None

    def initialize_options(self) -> None:
        pass

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        environment, has_gpu = environment_with_torch()
        if environment is None:
            self.announce("no torch in this environment: in-place ABN will run in pure PyTorch", level=2)
            return
        command = ["sh", "libs/build.sh", *([] if has_gpu else ["cpu"])]
        try:
            subprocess.run(command, check=True, env={**environment, "PYTHON": sys.executable})
        except (OSError, subprocess.CalledProcessError) as error:
            self.warn(f"not every kernel of in-place ABN was built, the rest will run in pure PyTorch: {error}")

    def get_source_files(self) -> list[str]:
        return ["libs/build.sh", "libs/sources.py", *(f"libs/src/{name}" for name in os.listdir("libs/src"))]

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


def environment_with_torch() -> tuple[dict[str, str] | None, bool]:
    """Environment variables under which this interpreter finds torch (None: there are none), and if it sees a GPU.

    pip hides the installed packages from a build by a PYTHONPATH of its own; without that, torch may be there.
    """
    inside = dict(os.environ)
    outside = {name: value for name, value in inside.items() if name != "PYTHONPATH"}
    for environment in (inside, outside):
        command = [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return environment, done.stdout.strip() == "True"
    return None, False


class Build(build):
    # Before build_py, which packs what is in libs/.
    sub_commands = [("build_kernels", None), *build.sub_commands]


# The folders are imported as segdistill.network, segdistill.utils and so on; nothing else is put on the path.
FOLDERS = ("dataset", "libs", "network", "utils")

setup(
    cmdclass={"build": Build, "build_kernels": BuildKernels},
    packages=[f"segdistill.{name}" for name in find_packages(include=[f"{folder}*" for folder in FOLDERS])],
    package_dir={f"segdistill.{folder}": folder for folder in FOLDERS},
    package_data={"segdistill.libs": ["build.sh", "src/*", "_C_*.so"]},
)
