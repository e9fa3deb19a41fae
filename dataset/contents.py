"""Files by their content: hashed once, and again only if size or time of change say that they are others."""

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
        except (OSError, ValueError):
            self.known = {}

    def of(self, path: Path) -> str:
        """SHA-256 of a file, or what keeps it from being read."""
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
        """SHA-256 of the contents of a split in their order, with the names by which its labels are understood."""
        whole = hashlib.sha256()
        for pair in tqdm(dataset.pairs, desc="comparing", unit="image", leave=False, disable=None):
            for path in filter(None, pair):
                whole.update(f"{path.name} {self.of(path)}\n".encode())
        return whole.hexdigest()

    def save(self) -> None:
        """Raises OSError where nothing may be written."""
        with replacing(self.index, "w") as file:
            json.dump(self.known, file)
