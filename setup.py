"""What is packed, and the optional kernels of in-place ABN; the rest of the packaging is in pyproject.toml."""

import os
import re
import subprocess
import sys
from pathlib import Path

from setuptools import Command, find_packages, setup
from setuptools.command.build import build
from setuptools.command.build_py import build_py


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


def is_editable(build: Command) -> bool:
    """Whether the checkout itself is installed. A wheel holds no kernels: one wheel fits every platform."""
    return "editable_wheel" in build.distribution.commands


class Build(build):
    sub_commands = [("build_kernels", is_editable), *build.sub_commands]


# The checkout is the package: its scripts are segdistill.train and so on, its folders segdistill.network and so on.
SCRIPTS = ("train", "eval", "test")
FOLDERS = ("dataset", "libs", "network", "utils")


class BuildPy(build_py):
    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        found = super().find_package_modules(package, package_dir)
        return [module for module in found if package != "segdistill" or module[1] in SCRIPTS]


# Where the checkout's pages are on the web (https://.../blob/main), and its pictures (https://.../raw/main).
PAGES, PICTURES = "", ""


def description() -> str:
    """README.md for a package index: links are absolute, or their text alone if the pages have no address."""
    text = Path("README.md").read_text(encoding="utf-8") if Path("README.md").is_file() else ""
    text = re.sub(r"!\[(.*?)\]\((?!http)(.*?)\)\n*", rf"![\1]({PICTURES}/\2)\n\n" if PICTURES else "", text)
    return re.sub(r"(?<!!)\[(.*?)\]\((?!http)(.*?)\)", rf"[\1]({PAGES}/\2)" if PAGES else r"\1", text)


setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    cmdclass={"build": Build, "build_kernels": BuildKernels, "build_py": BuildPy},
    packages=[
        "segdistill",
        *(f"segdistill.{name}" for name in find_packages(include=[f"{part}*" for part in FOLDERS])),
    ],
    package_dir={"segdistill": ""},
    package_data={
        "segdistill": [
            "*.sh",
            "experiments/*.sh",
            "experiments/cluster/*",
            "experiments/class_maps/*.txt",
            "ckpt/scenes_*.pth",
        ],
        "segdistill.libs": ["build.sh", "src/*"],
        "segdistill.network.export": ["page.html"],
        "segdistill.utils.report": ["report.html"],
    },
)
