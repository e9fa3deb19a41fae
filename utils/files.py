"""Reads and writes the small files of a run atomically; every error names its file."""

import json
from collections.abc import Mapping
from pathlib import Path

from segdistill.libs.files import replacing

REMEDY = "restore it from a copy, or train anew under another --save-name"


def stamp(path: Path) -> tuple[int, int] | None:
    """Inode and modification time of a file, to detect a new version; None without a file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def keep_rows(path: Path, step: int) -> None:
    """Remove rows of metrics.jsonl after ``step``, and an incomplete last row."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    kept = [line + "\n" for line in lines if (row := read_row(line)) and row["step"] <= step]
    write_text(path, "".join(kept))


def read_row(line: str) -> dict | None:
    """A row of metrics.jsonl, numbers by name with an integer ``step``; None if the line is damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    sound = isinstance(row, dict) and type(row.get("step")) is int
    return row if sound and all(type(value) in (int, float) for value in row.values()) else None


def read_json(path: Path) -> object:
    """Read a JSON file of a run. Raises ValueError, naming it, if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path} cannot be read ({reason}): {REMEDY}") from error


class Entries(dict):
    """Entries of a JSON file. A missing entry is a ValueError that names the file."""

    def __init__(self, content: dict, file: Path):
        super().__init__(content)
        self.file = file

    def __missing__(self, key: str):
        raise ValueError(f"{self.file} has no entry {key!r}: {REMEDY}")


def read_entries(file: Path, types: Mapping[str, type]) -> Entries:
    """The content of a JSON file. ValueError, naming it, if it is damaged or one of ``types`` is missing or another."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no entries: {REMEDY}")
    entries = Entries(content, file)
    for key, expected in types.items():
        if type(entries[key]) is not expected:
            raise ValueError(f"{file}: {key} is {entries[key]!r:.80}, no {expected.__name__}: {REMEDY}")
    return entries


def append(path: Path, content: bytes) -> None:
    """Append to a file. Raises OSError, naming it, if the disk is full."""
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError as error:
        raise OSError(f"could not write {path} ({error.strerror})") from error


def write_json(path: Path, content: object) -> None:
    """Write plain data as JSON, by rename, so that a reader never sees half of it. ValueError for NaN and infinity."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    with replacing(path, "w") as file:
        file.write(text)
