"""Downloads files: resumes interrupted downloads and checks them; the final name exists only when complete."""

import glob
import http.client
import os
import shutil
import urllib.error
import urllib.request
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from tqdm import tqdm

from segdistill.libs.files import sha256_of, sync_folder

BLOCK = 1 << 20
AGAIN = "the same command again continues there"


def download(url: str, target: str | os.PathLike, sha256: str | None = None) -> Path:
    """Fetch ``url`` (http, https or file) to the file ``target``; an interrupted download is continued.

    A target that exists is checked and not fetched again.

    Args:
        sha256: of the whole file in hexadecimal, or its first digits; None if the digest is unknown.

    Raises:
        ValueError: another kind of URL, or a content that is not the one that ``sha256`` names.
        OSError: the server refuses or the connection breaks, or the disk is full; says how to continue.
    """
    target = Path(target)
    if target.exists():
        require_digest(target, sha256, f"move {target} away and fetch it again")
        return target
    if urlsplit(url).scheme not in ("http", "https", "file"):
        raise ValueError(f"{url}: only http, https and file URLs are fetched")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = receive(url, target)
    try:
        require_digest(part, sha256, f"{url} has changed or was damaged on its way; it was not kept")
    except ValueError:
        part.unlink()
        raise
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    sync_folder(target.parent)
    return target


def receive(url: str, target: Path) -> Path:
    """Download ``url`` to a hidden file next to ``target``."""
    with ExitStack() as stack:
        response = stack.enter_context(connect(url))
        size = int(response.headers.get("Content-Length", 0))
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        # The name holds the version, so that halves of two versions are never joined.
        part = target.with_name(f".{target.name}.{zlib.crc32(f'{url} {size} {version}'.encode()):08x}.part")
        for other in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
            if other != part:
                other.unlink()
        start = part.stat().st_size if part.exists() else 0
        if size and start == size:
            return part
        free = shutil.disk_usage(target.parent).free
        if size - start > free:
            raise OSError(f"{target} needs {size - start:,} bytes, {target.parent} has {free:,} left: make room")
        if start:
            response = stack.enter_context(connect(url, start))
            if response.status != http.client.PARTIAL_CONTENT:  # a server that sends only whole files
                start = 0
        bar = stack.enter_context(
            tqdm(desc=target.name, total=size or None, initial=start, unit="B", unit_scale=True, disable=None)
        )
        file = stack.enter_context(part.open("ab" if start else "wb"))
        while block := read_block(response, url):
            write_block(file, block)
            bar.update(len(block))
    if part.stat().st_size < size:
        raise OSError(f"{url} broke off after {part.stat().st_size:,} of {size:,} bytes: {AGAIN}")
    return part


def connect(url: str, start: int = 0) -> http.client.HTTPResponse:
    """An open response, from byte ``start`` on if the server can."""
    request = urllib.request.Request(url, headers={"User-Agent": "segdistill"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        return urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        raise OSError(f"{url}: the server says {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise OSError(f"{url} cannot be reached ({reason}): try again, or fetch it by other means") from error


def read_block(response: http.client.HTTPResponse, url: str) -> bytes:
    try:
        return response.read(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"{url} broke off ({error}): {AGAIN}") from error


def write_block(file: BinaryIO, block: bytes) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        raise OSError(f"could not write {file.name} ({error.strerror}): make room; {AGAIN}") from error


def require_digest(file: Path, sha256: str | None, remedy: str) -> None:
    """Raise ValueError unless the SHA-256 of a file begins with ``sha256``."""
    if sha256 is None:
        return
    digest = sha256_of(file)
    if not digest.startswith(sha256.lower()):
        raise ValueError(f"{file.name} has SHA-256 {digest}, expected {sha256}: {remedy}")
