"""`scenes`: generated street images with exact labels, on disk in Cityscapes' own layout. The built-in data set."""

from pathlib import Path

from segdistill.dataset.base import Recipe
from segdistill.dataset.cityscapes import IMAGE, Cityscapes
from segdistill.dataset.depth import PNG_SCALE, DepthRange, Storage
from segdistill.dataset.pairs import Pair, pair_up
from segdistill.dataset.scenes.generator import generate


class Scenes(Cityscapes):
    """The generated street scenes, read as Cityscapes; ``root`` (data/scenes, if None) is made if it does not exist.

    Depth: ``<root>/depth/<split>/<city>/*_depth.png``, 16 bits, 1/256 m, 0 where there is none: the sky, the own car.
    """

    TASKS = ("segmentation", "depth")
    DEPTH_RANGE = DepthRange(2.0, 80.0)
    DEPTH_STORAGE = Storage(1 / PNG_SCALE)
    RECIPE = Recipe((128, 256), scale_range=(0.75, 1.5), num_steps=250, optimizer="adam", lr_g=3e-3, weight_decay=1e-4)
    DEFAULT_ROOT = "data/scenes"
    BY_HAND = ""

    def __init__(self, root: str | Path | None, split: str, **options):
        root = Path(root or self.DEFAULT_ROOT)
        if not root.exists():
            generate(root)
        super().__init__(root, split, **options)

    def find_pairs(self) -> list[Pair]:
        if self.task != "depth":
            return super().find_pairs()
        if not (self.root / "depth").is_dir():
            raise FileNotFoundError(f"{self.root} was drawn without depth: delete it, and the same are drawn anew")
        images = self.list_images(f"leftImg8bit/{self.split}", IMAGE, recursive=True)
        depths = self.list_images(f"depth/{self.split}", "_depth", recursive=True)
        return pair_up(images, depths, f"{self.root} {self.split}", lambda path: path.stem.rpartition("_")[0])

    @classmethod
    def finish(cls, folder: Path) -> None:
        generate(folder)
