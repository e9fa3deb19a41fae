"""KITTI's depth prediction benchmark: projected laser points, sparse, 16-bit PNG of 1/256 m."""

from pathlib import Path

from segdistill.dataset.base import Recipe, SegmentationDataset
from segdistill.dataset.depth import PNG_SCALE, DepthRange, Storage
from segdistill.dataset.pairs import Pair, require_listed


class KittiDepth(SegmentationDataset):
    """``<root>/<split>/DRIVE/proj_depth/groundtruth/image_0N/X.png`` (data_depth_annotated.zip) with
    ``<root>/DATE/DRIVE/image_0N/data/X.png`` or .jpg (raw data), N = 2 and 3; DATE begins the name of a DRIVE.

    Depth is scored up to 80 m; Eigen's and Garg's protocol: ``--crop garg``.
    """

    TASKS = ("depth",)
    CLASSES = PALETTE = ()
    ID_TO_TRAIN_ID = {}
    SPLITS = ("train", "val")
    DEPTH_RANGE = DepthRange(1.0, 80.0)
    DEPTH_STORAGE = Storage(1 / PNG_SCALE)
    RECIPE = Recipe((352, 704), scale_range=(1.0, 1.5))
    BY_HAND = (
        "register at https://www.cvlibs.net/datasets/kitti, download data_depth_annotated.zip and the raw data of its "
        "drives and unzip all there"
    )

    def find_pairs(self) -> list[Pair]:
        depths = self.list_images(self.split, recursive=True)
        return [Pair(self.image_of(depth), depth) for depth in depths if depth.parent.parent.name == "groundtruth"]

    def image_of(self, depth: Path) -> Path:
        """The image of a depth file. Raises FileNotFoundError if there is none."""
        drive, camera = depth.relative_to(self.root / self.split).parts[0], depth.parent.name
        stem = self.root / drive[:10] / drive / camera / "data" / depth.stem
        image = stem.with_suffix(".jpg") if stem.with_suffix(".jpg").is_file() else stem.with_suffix(".png")
        require_listed(image, str(depth), ": fetch the raw data of this drive")
        return image
