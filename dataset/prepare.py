"""Downloading public data sets and unpacking their archives, under the data set's folder and nowhere else."""

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit

from tqdm import tqdm

from segdistill.dataset.base import SegmentationDataset
from segdistill.libs.download import download
from segdistill.libs.files import replacing

ARCHIVES = "archives"  # under the data set's folder
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def prepare(data_set: type[SegmentationDataset], folder: str | Path) -> str:
    """Download and unpack a data set to ``folder``; an interrupted call is continued.

    Returns:
        Text: the files of the prepared data set.

    Raises:
        ValueError: it is not public, and what to fetch by hand; an archive that is damaged, has another checksum or
            would write elsewhere.
        OSError: a server that does not answer, a full disk; says where to put a file that was fetched by other means.
    """
    folder = Path(folder)
    if data_set.BY_HAND:
        raise ValueError(f"{data_set.__name__} cannot be downloaded: {data_set.BY_HAND}. The folder is {folder}")
    for source in data_set.SOURCES:
        archive = folder / ARCHIVES / PurePosixPath(urlsplit(source.url).path).name
        try:
            download(source.url, archive, source.sha256)
        except OSError as error:
            raise OSError(f"{error}. If you have it from elsewhere, put it at {archive}") from error
        unpack(archive, folder / source.into, source.inside)
    data_set.finish(folder)
    splits = []
    for split in data_set.SPLITS:
        try:
            splits.append(f"{split} {len(data_set(folder, split))}")
        except FileNotFoundError as error:
            if split in ("train", data_set.VALIDATION_SPLIT):
                raise ValueError(f"the archives did not hold what was expected: {error}") from error
    return f"{folder}: {', '.join(splits)} images. {folder / ARCHIVES} is not needed any more"


class Member(NamedTuple):
    """A file in an archive; ``fault`` says why it is not unpacked, ``open`` opens it for reading."""

    name: str
    size: int
    fault: str | None
    open: Callable[[], BinaryIO]


def unpack(archive: Path, target: Path, inside: str = "") -> None:
    """Unpack a zip or tar archive's files below its folder ``inside``; files that exist with the right size are kept.

    Raises:
        ValueError: a damaged or shortened archive; a member that is a link, a device or encrypted, that leads out of
            ``target`` or has the name of another. Nothing is written before all members are looked at.
        OSError: no room for it.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                write_all(locate(zip_members(opened), target, inside, archive))
        else:
            with tarfile.open(archive) as opened:
                write_all(locate(tar_members(opened), target, inside, archive))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{archive} is damaged ({reason}): delete it and try again") from error


def zip_members(opened: zipfile.ZipFile) -> list[Member]:
    members = []
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        fault = None
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            fault = "is a link or device"
        elif info.flag_bits & 1:
            fault = "is encrypted"
        elif info.compress_type not in COMPRESSIONS:
            fault = f"is compressed in a way that is not known ({info.compress_type})"
        if fault or not info.is_dir():
            members.append(Member(info.filename, info.file_size, fault, partial(opened.open, info)))
    return members


def tar_members(opened: tarfile.TarFile) -> list[Member]:
    """The files of a tar archive; detects damaged headers and truncation, which tarfile reads as the end."""
    members = []
    for info in opened:
        if not info.isdir():
            fault = None if info.isfile() else "is a link or device"
            members.append(Member(info.name, info.size, fault, partial(opened.extractfile, info)))
    opened.fileobj.seek(opened.offset)
    if opened.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no header and no end of the archive after {len(members)} files")
    while opened.fileobj.read(1 << 20):  # to the checksum of the compressed data
        pass
    return members


def locate(members: list[Member], target: Path, inside: str, archive: Path) -> list[tuple[Path, Member]]:
    """(path, member) of each member below ``inside`` to unpack. Raises ValueError for an unsafe member."""
    wanted, seen = [], set()
    for member in members:
        path = PurePosixPath(member.name.removeprefix("./"))
        fault = member.fault
        if path.is_absolute() or ".." in path.parts or "\\" in member.name:
            fault = "leads out of the folder"
        elif path in seen:
            fault = "is there twice"
        if fault:
            raise ValueError(f"{archive}: the member {member.name!r} {fault}: not unpacked, do not trust it")
        seen.add(path)
        if path.is_relative_to(inside):
            file = target / path.relative_to(inside)
            if not (file.is_file() and file.stat().st_size == member.size):
                wanted.append((file, member))
    needed = sum(member.size for _, member in wanted)
    target.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target).free
    if needed > free:
        raise OSError(f"{archive} needs {needed:,} bytes, {target} has {free:,} left: make room")
    return wanted


def write_all(files: list[tuple[Path, Member]]) -> None:
    for path, member in tqdm(files, desc="unpacking", unit="file", disable=None):
        with member.open() as content, replacing(path) as file:
            shutil.copyfileobj(content, file)
