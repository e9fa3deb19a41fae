"""Kinds of command-line flags that argparse does not have."""

import argparse


def boolean(text: str) -> bool:
    """``true`` or ``false`` in any case, as the originals' scripts write them."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")
    return text.lower() == "true"


def size(text: str) -> tuple[int, int]:
    """``512,1024`` to (512, 1024), height first."""
    try:
        height, width = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected height,width such as 512,512, not {text!r}") from None
    return height, width


def add_switch(group: argparse._ArgumentGroup, name: str, help: str, default: bool = False) -> None:
    """A flag that may stand alone (``--pi``) or carry a value (``--pi true``)."""
    group.add_argument(name, nargs="?", type=boolean, const=True, default=default, metavar="true|false", help=help)
