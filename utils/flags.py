"""Kinds of command-line flags that argparse does not have."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import torch

from segdistill.network.settings import UNLIMITED, Limits, parse_value, shortened
from segdistill.network.weights.hub import PREFIX, local_file
from segdistill.utils import originals
from segdistill.utils.allocator import keep_freed_memory
from segdistill.utils.distributed import is_of_peers, reason_of

# User errors; all other exceptions are bugs and keep their traceback.
USER_ERRORS = (ValueError, OSError, FloatingPointError)
# What other programs call flags of ours.
ELSEWHERE = {
    "--epochs": "--num-steps (batches, not epochs)",
    "--learning-rate": "--lr-g",
    "--lr": "--lr-g",
    "--model": "--network",
    "--steps": "--num-steps",
    "--student": "--network",
    "--teacher": "--T_ckpt_path FILE or --teacher-network NAME",
    "--weights": "--checkpoint",
}
NOT_FINITE = 3  # exit code of a training that diverged
# Texts of torch's out-of-memory RuntimeErrors on CPU and GPU.
NO_MEMORY = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)
# Files that come with the package; they are found from every folder.
PACKAGE, SHIPPED = Path(__file__).parents[1], ("ckpt/scenes_", "experiments/class_maps/")


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one line, without abbreviations; ``origin`` names the source of the words.

    A word that names a file of the hub (``hf://...``, ``--FLAG=hf://...``) becomes the path of the fetched file.
    """

    def __init__(self, *args, origin: str = "", **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self.origin = origin

    def parse_known_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else args
        # torch.distributed.launch adds it; the environment says the same.
        self.words = [word for word in words if not re.fullmatch(r"--local[-_]rank=\d+", word)]
        try:
            self.words = [on_disk(word) for word in self.words]
        except (ValueError, OSError) as error:
            self.error(str(error))
        return super().parse_known_args(self.words, namespace)

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: --"):
            message += f"{self._meant(message)} (--help lists the options)"
        if not self.origin:
            message = originals.suggest(self.prog, self.words, self._option_string_actions) or message
        self.exit(2, f"{self.prog}: error: {self.origin}{message}\n")

    def _meant(self, message: str) -> str:
        """Our flags in place of those that are not known: the usual words of other programs, or misspelt ones."""
        flags = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        meant = {flag: ELSEWHERE.get(flag) or (*get_close_matches(flag, known, 1, 0.7), "")[0] for flag in flags}
        pairs = [f"{flag} is {ours} here" for flag, ours in meant.items() if ours.split(" ")[0] in known]
        return f"; {', '.join(pairs)}" if pairs else ""


def on_disk(word: str) -> str:
    """A word of a command line, a file of the hub or of the package by its path."""
    flag, value = re.fullmatch(r"(--[\w-]+=)?(.*)", word, re.DOTALL).groups(default="")
    if value.startswith(PREFIX):
        return flag + local_file(value)
    if value.startswith(SHIPPED) and not os.path.exists(value) and (PACKAGE / value).is_file():
        return flag + str(PACKAGE / value)
    return word


def run_command(main: Callable[[], int]) -> NoReturn:
    """Exit with ``main()``'s code, or with one line for a user error: 1, or ``NOT_FINITE``."""
    if sys.stderr is None:  # closed (2>&-): the next file that is opened would be number 2, and take what is said there
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    keep_freed_memory()
    torch.set_flush_denormal(True)  # what weight decay leaves near 0 would make a step several times as long
    try:
        sys.exit(main())
    except USER_ERRORS as error:
        logging.getLogger(__name__).debug("traceback", exc_info=True)
        print(f"{sys.argv[0]}: error: {error}", file=sys.stderr)
        sys.exit(NOT_FINITE if isinstance(error, FloatingPointError) else 1)
    except (MemoryError, RuntimeError) as error:
        if is_of_peers(error):
            words = f"other processes are gone, or take longer than --timeout-minutes ({reason_of(error)})"
            remedy = "see what they wrote last; a training goes on by the same command with --resume on every machine"
            print(f"{sys.argv[0]}: error: {words}: {remedy}", file=sys.stderr)
            sys.exit(1)
        if not (isinstance(error, MemoryError) or NO_MEMORY.search(str(error))):
            raise
        words = shortened(str(error), 200).replace("\n", " ")
        print(f"{sys.argv[0]}: error: no memory for that; make batch, crop or queue smaller ({words})", file=sys.stderr)
        sys.exit(1)


def reader(kind: Any, limits: Limits = UNLIMITED) -> Callable[[str], Any]:
    """An argparse type: parses text to a value of an annotation, as ``segdistill.network.settings`` reads settings."""

    def read(text: str) -> Any:
        try:
            return parse_value(kind, text, limits)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def number(
    kind: type, least: float | None = None, greatest: float | None = None, above: float | None = None
) -> Callable[[str], float]:
    """An argparse type of finite numbers in least..greatest, greater than ``above``."""
    return reader(kind, Limits(least, greatest, above))


count = number(int, least=1)


def add_switch(group: argparse._ArgumentGroup, name: str, help: str, default: bool | None = False) -> None:
    """A flag that may stand alone (``--resume``) or carry a value (``--resume true``)."""
    group.add_argument(name, nargs="?", type=reader(bool), const=True, default=default, metavar="true|false", help=help)
