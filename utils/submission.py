"""Archives of predictions in the layout of the benchmark servers."""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from segdistill.dataset import IGNORE_INDEX, SegmentationDataset
from segdistill.libs.files import replacing
from segdistill.utils.pictures import png_of
from segdistill.utils.tasks import task_of


class Archive:
    """A zip of label PNGs, or a tar of palette PNGs in the data set's SUBMISSION_FOLDER."""

    def __init__(
        self, archive: zipfile.ZipFile | tarfile.TarFile, dataset: SegmentationDataset | type[SegmentationDataset]
    ):
        self.archive, self.dataset = archive, dataset
        self.names: set[str] = set()

    def encode(self, prediction: np.ndarray) -> bytes:
        """The PNG of a prediction (H, W), which threads may make."""
        picture = task_of(self.dataset).encode(prediction, self.dataset)
        if isinstance(self.archive, zipfile.ZipFile):
            return png_of(picture)
        picture = Image.fromarray(picture)
        picture.putpalette(palette_of(self.dataset))
        png = io.BytesIO()
        picture.save(png, format="PNG", bits=8)
        return png.getvalue()

    def add(self, name: str, png: bytes) -> None:
        """Add what ``encode`` made for the image ``name``. ValueError if it is there already."""
        if name in self.names:
            raise ValueError(f"the submission has a prediction of {name} already: two images share the name")
        self.names.add(name)
        if isinstance(self.archive, zipfile.ZipFile):
            self.archive.writestr(f"{name}.png", png)
            return
        entry = tarfile.TarInfo(f"{self.dataset.SUBMISSION_FOLDER}/{name}.png")
        entry.size = len(png)
        self.archive.addfile(entry, io.BytesIO(png))


def palette_of(dataset: SegmentationDataset | type[SegmentationDataset]) -> bytes:
    """Red, green, blue of all 256 values of a label file; black for those that mean no class."""
    colors = np.zeros((256, 3), np.uint8)
    for value, train_id in dataset.ID_TO_TRAIN_ID.items():
        if train_id != IGNORE_INDEX:
            colors[value] = dataset.PALETTE[train_id]
    return colors.tobytes()


@contextmanager
def submission(path: Path, dataset: SegmentationDataset | type[SegmentationDataset]) -> Iterator[Archive]:
    """Context manager: an archive to add predictions to, renamed to its final name when complete.

    Raises:
        ValueError: a suffix other than .zip (label ids in PNGs) and, where the data set's server takes it, .tar.
    """
    suffixes = [".zip", ".tar"] if dataset.SUBMISSION_FOLDER else [".zip"]
    if path.suffix not in suffixes:
        owner = dataset.__name__ if isinstance(dataset, type) else type(dataset).__name__
        raise ValueError(f"a submission of {owner} is a {' or a '.join(suffixes)}, not {path.name}")
    with ExitStack() as stack:
        file = stack.enter_context(replacing(path))
        archive = zipfile.ZipFile(file, "w") if path.suffix == ".zip" else tarfile.TarFile(fileobj=file, mode="w")
        yield Archive(stack.enter_context(archive), dataset)
