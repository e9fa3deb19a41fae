"""Public data sets from their archives: fetched, unpacked under their folder and nowhere else, made readable."""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

from tqdm import tqdm

from segdistill.dataset.base import SegmentationDataset
from segdistill.libs.download import download
from segdistill.libs.files import replacing

ARCHIVES = "archives"  # under the data set's folder


def prepare(data_set: type[SegmentationDataset], folder: str | Path) -> str:
    """Make ``folder`` a data set; what an interrupted call has done is not done again.

    Returns:
        What is there, in words.

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


def unpack(archive: Path, target: Path, inside: str = "") -> None:
    """The files of a zip or tar archive below its folder ``inside``; those that are there at their size are kept.

    Raises:
        ValueError: a damaged archive; a member that is a link or leads out of ``target``, before anything is written.
        OSError: no room for it.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                members = [(info.filename, info.file_size, info) for info in opened.infolist() if not info.is_dir()]
                wanted = locate(members, target, inside, archive)
                write_all((path, size, opened.open(info)) for path, size, info in wanted)
            return
        with tarfile.open(archive) as opened:
            members = [(info.name, info.size, info) for info in opened if not info.isdir()]
            wanted = locate(members, target, inside, archive)
            for _, _, info in wanted:
                if not info.isfile():
                    raise ValueError(f"{archive}: {info.name} is a link or device: not unpacked, do not trust it")
            write_all((path, size, opened.extractfile(info)) for path, size, info in wanted)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{archive} is damaged ({reason}): delete it and try again") from error


def locate(members: list[tuple], target: Path, inside: str, archive: Path) -> list[tuple]:
    """(path, size, member) of what is below ``inside`` and not there yet. ValueError: a name leads elsewhere."""
    wanted = []
    for name, size, member in members:
        path = PurePosixPath(name.removeprefix("./"))
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise ValueError(f"{archive}: the name {name!r} leads out of the folder: not unpacked, do not trust it")
        if path.is_relative_to(inside):
            file = target / path.relative_to(inside)
            if not (file.is_file() and file.stat().st_size == size):
                wanted.append((file, size, member))
    needed = sum(size for _, size, _ in wanted)
    target.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target).free
    if needed > free:
        raise OSError(f"{archive} needs {needed:,} bytes, {target} has {free:,} left: make room")
    return wanted


def write_all(files: Iterator[tuple[Path, int, BinaryIO]]) -> None:
    for path, _, content in tqdm(files, desc="unpacking", unit="file", disable=None):
        with content, replacing(path) as file:
            shutil.copyfileobj(content, file)
