"""Pascal VOC 2012, and with SBD's labels (10,582 training images): 20 things and background, void (255) around them."""

from pathlib import Path

from PIL import Image
from tqdm import tqdm

from segdistill.dataset.base import Recipe, SegmentationDataset, Source
from segdistill.dataset.ids import IGNORE_INDEX, bit_color
from segdistill.dataset.pairs import Pair
from segdistill.libs.files import replacing

LISTS = "ImageSets/Segmentation"
LABELS = ("SegmentationClass", "SegmentationClassAug")


class Voc2012(SegmentationDataset):
    """``<root>/JPEGImages/ID.jpg``, ``<root>/SegmentationClass/ID.png``, ids in ``ImageSets/Segmentation/<split>.txt``.

    The root is the folder VOC2012 of VOCdevkit. A data list may name ids too: with SBD's labels in SegmentationClassAug
    and the ids in train_aug.txt, ``--data-list DIR/ImageSets/Segmentation/train_aug.txt``. Where an image has both
    labels VOC's own is taken.
    """

    CLASSES = (
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    )
    PALETTE = tuple(bit_color(i) for i in range(21))
    ID_TO_TRAIN_ID = {**{i: i for i in range(21)}, 255: IGNORE_INDEX}
    RECIPE = Recipe(scale_range=(0.5, 2.0))
    SUBMISSION_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"
    LABEL_HINT = "Labels are VOC's palette PNGs, 0..20 and 255; SBD's .mat files must be converted to PNG first."
    SOURCES = (
        Source("http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar", "VOCdevkit/VOC2012"),
        Source(
            "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
            "benchmark_RELEASE/dataset",
            into="SBD",
        ),
    )

    def find_pairs(self) -> list[Pair]:
        names = self.root / LISTS / f"{self.split}.txt"
        if not names.is_file():
            raise FileNotFoundError(
                f"Voc2012: no split {self.split!r}, {names} is missing: --data-dir is VOCdevkit/VOC2012"
            )
        return self._read_list(names)

    @classmethod
    def finish(cls, folder: Path) -> None:
        """SBD's .mat files as PNG in SegmentationClassAug, and train_aug.txt: all but VOC's validation images."""
        from scipy.io import loadmat  # slow to import

        labels = folder / LABELS[1]
        labels.mkdir(exist_ok=True)
        for file in tqdm(sorted((folder / "SBD/cls").glob("*.mat")), desc="converting", unit="label", disable=None):
            target = labels / f"{file.stem}.png"
            if not target.exists():
                ids = loadmat(file)["GTcls"]["Segmentation"][0, 0]
                with replacing(target) as png:
                    Image.fromarray(ids.astype("uint8")).save(png, format="PNG")
        lists = [parent / f"{split}.txt" for parent in (folder / "SBD", folder / LISTS) for split in ("train", "val")]
        ids_of = [set(path.read_text().split()) for path in lists]
        names = sorted(set().union(*ids_of) - ids_of[-1])
        (folder / LISTS / "train_aug.txt").write_text("\n".join(names) + "\n")

    def pair_of(self, entries: list[str]) -> Pair:
        if len(entries) == 2 or Path(entries[0]).suffix:
            return super().pair_of(entries)
        files = [self.root / folder / f"{entries[0]}.png" for folder in LABELS]
        label = next((file for file in files if file.is_file()), files[0])
        return Pair(self.root / "JPEGImages" / f"{entries[0]}.jpg", None if self.split == "test" else label)
