"""Kinds of command-line flags that argparse does not have."""

import argparse
import logging
import math
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from segdistill.network.settings import boolean as read_boolean

# What a user can mend; everything else is a defect of ours and keeps its traceback.
USER_ERRORS = (ValueError, OSError, FloatingPointError)


class Parser(argparse.ArgumentParser):
    """An error is one line, without the list of all flags; no abbreviations."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: --"):
            message += " (--help lists the options)"
        self.exit(2, f"{self.prog}: error: {message}\n")


def run_command(main: Callable[[], int]) -> NoReturn:
    """Exit with ``main()``'s code, or with 1 and one line for an error that the user can mend."""
    if sys.stderr is None:  # closed (2>&-): the next file that is opened would be number 2, and take what is said there
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        sys.exit(main())
    except USER_ERRORS as error:
        logging.getLogger(__name__).debug("traceback", exc_info=True)
        print(f"{sys.argv[0]}: error: {error}", file=sys.stderr)
        sys.exit(1)


def boolean(text: str) -> bool:
    """``true`` or ``false`` in any case."""
    try:
        return read_boolean(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def number(kind: type, least: float = -math.inf, greatest: float = math.inf, above: float = -math.inf) -> Callable:
    """A type of numbers in least..greatest, greater than ``above``, finite."""
    limits = [f"{least:g} or more"] * (least > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
    limits += [f"at most {greatest:g}"] * (greatest < math.inf)
    what = "a whole number" if kind is int else "a number"
    expected = f"{what}, {' and '.join(limits)}" if limits else what

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= greatest and value > above):
            raise argparse.ArgumentTypeError(f"expected {expected}, not {text!r}")
        return value

    return read


count = number(int, least=1)


def size(text: str) -> tuple[int, int]:
    """``512,1024`` to (512, 1024), height first."""
    if not re.fullmatch(r"[1-9]\d*,[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"expected height,width such as 512,512, each 1 or more, not {text!r}")
    height, width = map(int, text.split(","))
    return height, width


def folder_name(text: str) -> str:
    """A name that is one folder, not a path."""
    if not re.fullmatch(r"[^/\\\0]+", text) or text in (".", ".."):
        raise argparse.ArgumentTypeError(f"expected the name of one folder, not {text!r}")
    return text


def add_switch(group: argparse._ArgumentGroup, name: str, help: str, default: bool | None = False) -> None:
    """A flag that may stand alone (``--resume``) or carry a value (``--resume true``)."""
    group.add_argument(name, nargs="?", type=boolean, const=True, default=default, metavar="true|false", help=help)
