"""Atomic file writes: written under another name, synced, then renamed."""

import glob
import hashlib
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

BLOCK = 1 << 20
# Open file descriptors; a regular file if the shell has redirected it.
STREAMS = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")


@contextmanager
def replacing(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """Context manager: a file to write, renamed to ``path`` when the block ends without an error.

    A kill or a full disk leaves the old file or the new one, whole. A link stays a link: the file that it points to is
    replaced. A target that is no regular file (/dev/stdout, a pipe) is written directly; output to /dev/stdout is
    appended if the shell redirects it to a file.

    Raises:
        OSError: it could not be written; names the file.
    """
    path = Path(path)
    if path.exists() and (not path.is_file() or os.path.abspath(path).startswith(STREAMS)):
        with path.open(mode.replace("w", "a")) as file:
            yield file
        return
    target = path.resolve()
    temporary = temporary_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open(mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise OSError(f"could not write {path} ({error.strerror or error}); what was there is intact") from error
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(target: Path) -> Path:
    """A name that no other process uses, on other machines that share the folder neither."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a crash, where the system supports it."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(number)
    except OSError:  # some network file systems
        pass
    finally:
        os.close(number)


def sha256_of(path: str | os.PathLike) -> str:
    """The checksum of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside, which becomes ``folder`` if the block ends without an error, else vanishes."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder: name a new one, nothing is overwritten")
    target = folder.absolute()
    temporary = temporary_beside(target)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unfinished_beside(folder: Path) -> Path:
    """Where this process builds ``folder``. Deletes what ended processes of this machine left of it."""
    start = f".{folder.name}.{socket.gethostname()}"
    for left in folder.parent.glob(f"{glob.escape(start)}.*.unfinished"):
        number = left.name.split(".")[-2]
        if number.isdecimal() and not is_alive(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    return folder.with_name(f"{start}.{os.getpid()}.unfinished")


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True


def link(image: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(image.resolve(), target)
    except OSError:
        shutil.copyfile(image, target)
