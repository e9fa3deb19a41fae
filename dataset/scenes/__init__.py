"""`scenes`: generated street images with exact labels, on disk in Cityscapes' own layout. The built-in data set."""

from pathlib import Path

from segdistill.dataset.base import Recipe
from segdistill.dataset.cityscapes import Cityscapes
from segdistill.dataset.scenes.generator import generate


class Scenes(Cityscapes):
    """The generated street scenes, read as Cityscapes; ``root`` (data/scenes, if None) is made if it does not exist."""

    RECIPE = Recipe((128, 256), scale_range=(0.75, 1.5), num_steps=250, optimizer="adam", lr_g=3e-3, weight_decay=1e-4)
    DEFAULT_ROOT = "data/scenes"
    BY_HAND = ""

    def __init__(self, root: str | Path | None, split: str, **options):
        root = Path(root or self.DEFAULT_ROOT)
        if not root.exists():
            generate(root)
        super().__init__(root, split, **options)

    @classmethod
    def finish(cls, folder: Path) -> None:
        generate(folder)
