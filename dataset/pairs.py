"""Finding the files of a split: folders, lists, and which label belongs to which image."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple


class Pair(NamedTuple):
    image: Path
    label: Path | None


def pair_up(
    images: Sequence[Path], labels: Sequence[Path], where: str, key: Callable[[Path], str] = lambda path: path.stem
) -> list[Pair]:
    """Pair images and labels that share a key.

    Raises:
        ValueError: files without a partner, or several of one key; names the first.
    """
    image_of, label_of = unique(images, key, where), unique(labels, key, where)
    alone = [image_of[name].name for name in sorted(image_of.keys() - label_of.keys())]
    left = [label_of[name].name for name in sorted(label_of.keys() - image_of.keys())]
    if alone or left:
        raise ValueError(
            f"{where}: {len(alone)} images without label, {len(left)} labels without image: {alone[:3] + left[:3]}"
        )
    return [Pair(image, label_of[name]) for name, image in image_of.items()]


def unique(files: Sequence[Path], key: Callable[[Path], str], where: str) -> dict[str, Path]:
    """Files by key; ValueError if two have the same key."""
    found = {}
    for file in files:
        other = found.setdefault(key(file), file)
        if other is not file:
            raise ValueError(f"{where}: {other} and {file} are both {key(file)!r}: which one is meant? Move one away")
    return found


def walk(folder: Path) -> list[Path]:
    """Every file below a folder, sorted, [] without the folder; links are followed, hidden folders are not entered.

    Raises:
        ValueError: a folder that may not be listed.
    """

    def complain(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise ValueError(f"{error.filename} cannot be listed ({error.strerror}): chmod u+rx it, or ask its owner")

    files, seen = [], set()
    for parent, folders, names in os.walk(folder, onerror=complain, followlinks=True):
        if os.path.realpath(parent) in seen:  # a link back
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names]
    return sorted(files)


def describe_unused(files: Sequence[Path]) -> str:
    names = ", ".join(str(file) for file in files[:3])
    return f"{len(files)} files are not used ({names}{' ...' if len(files) > 3 else ''}): not where or as expected"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line of a text file that is not blank.

    Raises:
        ValueError: it is not UTF-8; names file and byte.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def require_listed(file: Path, where: str, hint: str = "") -> None:
    """Raise FileNotFoundError if the file named in a line of a list, ``where``, does not exist."""
    if not file.is_file():
        hint = "; folders are separated by /, here it is \\" if "\\" in str(file) else hint
        raise FileNotFoundError(f"{where} names {file}, which does not exist or is no file{hint}")
