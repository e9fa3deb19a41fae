"""Predictions in one archive, laid out as the servers of the benchmarks want them."""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from segdistill.dataset import SegmentationDataset
from segdistill.libs.files import replacing

VOC_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"


class Archive:
    """A zip of label PNGs, or a tar of palette PNGs in VOC's folders."""

    def __init__(
        self, archive: zipfile.ZipFile | tarfile.TarFile, dataset: SegmentationDataset | type[SegmentationDataset]
    ):
        self.archive, self.dataset = archive, dataset
        self.names: set[str] = set()

    def add(self, name: str, train_ids: np.ndarray) -> None:
        """Add the prediction (H, W) uint8 of the image ``name``. ValueError if it is there already."""
        if name in self.names:
            raise ValueError(f"the submission has a prediction of {name} already: two images share the name")
        self.names.add(name)
        picture = Image.fromarray(self.dataset.encode(train_ids))
        if isinstance(self.archive, tarfile.TarFile):
            picture.putpalette(np.array(self.dataset.PALETTE, np.uint8).tobytes())
        png = io.BytesIO()
        picture.save(png, format="PNG")
        if isinstance(self.archive, tarfile.TarFile):
            entry = tarfile.TarInfo(f"{VOC_FOLDER}/{name}.png")
            entry.size = png.tell()
            png.seek(0)
            self.archive.addfile(entry, png)
        else:
            self.archive.writestr(f"{name}.png", png.getvalue())


@contextmanager
def submission(path: Path, dataset: SegmentationDataset | type[SegmentationDataset]) -> Iterator[Archive]:
    """An archive to add predictions to; it gets its name when it is whole.

    Raises:
        ValueError: a suffix other than .zip (label ids in PNGs) and .tar (VOC's layout).
    """
    if path.suffix not in (".zip", ".tar"):
        raise ValueError(f"a submission is a .zip (Cityscapes) or a .tar (VOC), not {path.name}")
    with ExitStack() as stack:
        file = stack.enter_context(replacing(path))
        archive = zipfile.ZipFile(file, "w") if path.suffix == ".zip" else tarfile.TarFile(fileobj=file, mode="w")
        yield Archive(stack.enter_context(archive), dataset)
