"""The console command: ``segdistill train ...`` is ``python train.py ...``, wherever the package is installed."""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1]  # a checkout, or the installed package
SCRIPTS = ("run_train_eval", "test", *sorted(path.stem for path in PACKAGE.glob("experiments/*.sh")))


class Tool(NamedTuple):
    """A module with a function ``main``, and what it does."""

    module: str
    meaning: str


TOOLS = {
    "train": Tool("train", "a student, alone or distilled from a teacher"),
    "eval": Tool("eval", "scores of checkpoints on a labelled split"),
    "test": Tool("test", "predictions as files: labels, overlays, submissions, videos; latency"),
    "network": Tool("network.__main__", "what a network costs; fetch, convert, export and push weights"),
    "dataset": Tool("dataset.__main__", "check, fetch or convert a data set"),
    "scenes": Tool("dataset.scenes.__main__", "generate street scenes"),
    "report": Tool("utils.report.__main__", "one table of finished runs, or a comparison of groups"),
    "search": Tool("utils.search.__main__", "which method, weight, layer? many students, ranked by validation"),
    "originals": Tool("utils.originals", "a command of an original repository in ours"),
    "libs": Tool("libs.__main__", "which in-place ABN is active; libs build compiles its kernels"),
}


def main() -> int:
    name, words = (*sys.argv[1:2], "--help")[0], sys.argv[2:]
    if name in ("--help", "-h"):
        print(overview())
        return 0
    if name == "run":
        return run_script(words)
    if name not in TOOLS:
        print(f"segdistill: error: no command {name!r}; known: {', '.join(TOOLS)}, run", file=sys.stderr)
        return 2
    from segdistill.utils.flags import run_command  # imports torch

    sys.argv = [f"segdistill {name}", *words]
    run_command(importlib.import_module(f"segdistill.{TOOLS[name].module}").main)


def overview() -> str:
    """The commands on one screen."""
    lines = ["segdistill COMMAND ...; each answers --help.", ""]
    lines += [f"  {name:10} {tool.meaning}" for name, tool in TOOLS.items()]
    lines += [
        f"  {'run':10} a script, in the current folder: the default ablation on generated scenes; `segdistill run",
        f'  {"":10} compare teacher=FILE seeds="0 1 2"`: methods x seeds; run --help names all',
        "",
        "Several GPUs: torchrun --nproc_per_node N -m segdistill.train ...",
    ]
    return "\n".join(lines)


def run_script(words: Sequence[str]) -> int:
    """Run a shell script of the package; ``name=value`` words are its settings."""
    script, *rest = words if words and "=" not in words[0] else ["run_train_eval", *words]
    if script in ("--help", "-h"):
        print("segdistill run [SCRIPT] [name=value ...]; settings are at the head of each script.\n")
        print("\n".join(f"  {name:20} {path_of(name)}" for name in SCRIPTS))
        return 0
    problem = None
    if script not in SCRIPTS:
        problem = f"no script {script!r}; known: {', '.join(SCRIPTS)}"
    elif wrong := [word for word in rest if not word.partition("=")[0].isidentifier() or "=" not in word]:
        problem = f"expected name=value, not {wrong[0]!r}"
    elif not shutil.which("bash"):
        problem = "the scripts need bash, which is not installed"
    if problem:
        print(f"segdistill run: error: {problem}", file=sys.stderr)
        return 2
    settings = dict(word.split("=", 1) for word in rest)
    environment = {"python": sys.executable, **os.environ, **settings}
    return subprocess.run(["bash", path_of(script)], env=environment, check=False).returncode


def path_of(script: str) -> Path:
    """The file of one of ``SCRIPTS``."""
    return PACKAGE / f"{script}.sh" if script in SCRIPTS[:2] else PACKAGE / "experiments" / f"{script}.sh"


if __name__ == "__main__":
    sys.exit(main())
