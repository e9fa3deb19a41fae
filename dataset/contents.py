"""SHA-256 of files, remembered: a file is hashed again only if its size, inode or time of change differ."""

import hashlib
import json
from pathlib import Path

from tqdm import tqdm

from segdistill.dataset.base import SegmentationDataset
from segdistill.dataset.files import read_bytes
from segdistill.libs.files import replacing


class Contents:
    """SHA-256 of files, remembered in a JSON file; what it cannot read or write is hashed anew."""

    def __init__(self, index: Path):
        self.index = index
        try:
            self.known = json.loads(index.read_text())
            if not all(map(is_entry, self.known.values())):
                self.known = {}
        except (OSError, ValueError, AttributeError):
            self.known = {}

    def of(self, path: Path) -> str:
        """SHA-256 of a file, or the error of reading it."""
        try:
            status = path.stat()
            stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"
            known, digest = self.known.get(str(path.absolute()), ("", ""))
            if known != stamp:
                digest = hashlib.sha256(read_bytes(path)).hexdigest()
                self.known[str(path.absolute())] = stamp, digest
        except (OSError, ValueError) as error:
            return str(error)
        return digest

    def digest(self, dataset: SegmentationDataset) -> str:
        """SHA-256 of the contents of a split in their order, and of the file names."""
        whole = hashlib.sha256()
        for pair in tqdm(dataset.pairs, desc="comparing", unit="image", leave=False, disable=None):
            for path in filter(None, pair):
                whole.update(f"{path.name} {self.of(path)}\n".encode())
        return whole.hexdigest()

    def save(self) -> None:
        """Raises OSError where nothing may be written."""
        with replacing(self.index, "w") as file:
            json.dump(self.known, file)


def is_entry(value: object) -> bool:
    """Whether ``value`` is [stamp, SHA-256]."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)
