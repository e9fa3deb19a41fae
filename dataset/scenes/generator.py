"""Scenes as a folder in Cityscapes' layout, written once and as a whole."""

import json
import os
import shutil
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from segdistill.dataset.scenes.street import render_scene

VERSION = 1  # raise it when the pictures change, so that an older folder is not taken for a new one
CITIES = {"train": ("aspen", "birch", "cedar"), "val": ("dogwood",), "test": ("elm",)}
FIRST_INDEX = {"train": 0, "val": 1_000_000, "test": 2_000_000}  # a split stays the same when another one grows
CARD = "scenes.json"


def generate(
    root: str | Path,
    num_train: int = 400,
    num_val: int = 80,
    num_test: int = 20,
    size: tuple[int, int] = (128, 256),
    seed: int = 0,
) -> Path:
    """Write the data set under ``root``, unless it is there already.

    Everything is drawn into a folder beside ``root`` that gets its name at the end, so an interrupted call leaves
    nothing under that name.

    Args:
        root: folder to make; its parents are made too.
        num_train, num_val, num_test: images of each split, at most 1,000,000.
        size: (height, width) of the images, at least (64, 128).
        seed: another seed gives other images throughout.

    Returns:
        ``root``, which holds leftImg8bit/, gtFine/ and scenes.json with these parameters.

    Raises:
        ValueError: ``root`` holds scenes of other parameters or something else, or a count or the size is out of range.
    """
    root = Path(root)
    counts = {"train": num_train, "val": num_val, "test": num_test}
    for split, count in counts.items():
        if not 0 <= count <= 1_000_000:
            raise ValueError(f"scenes: {count} images of split {split!r}; expected 0 to 1,000,000")
    card = {"version": VERSION, "seed": seed, "size": list(size), **counts}
    if root.exists():
        check_card(root, card)
        return root
    unfinished = root.with_name(f".{root.name}.{os.getpid()}.unfinished")
    try:
        unfinished.mkdir(parents=True)
        with tqdm(total=sum(counts.values()), desc=f"drawing {root}", unit="image", disable=None) as progress:
            for split, count in counts.items():
                for number in range(count):
                    write_scene(unfinished, split, number, size, seed)
                    progress.update()
        (unfinished / CARD).write_text(json.dumps(card, indent=2) + "\n")
        try:
            os.sync()  # the pictures before their name
            unfinished.rename(root)
        except OSError:
            if not root.exists():
                raise
            check_card(root, card)  # another process was faster
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return root


def write_scene(root: Path, split: str, number: int, size: tuple[int, int], seed: int) -> None:
    image, label = render_scene(seed, FIRST_INDEX[split] + number, size)
    city = CITIES[split][number % len(CITIES[split])]
    for kind, suffix, pixels in (("leftImg8bit", "leftImg8bit", image), ("gtFine", "gtFine_labelIds", label)):
        folder = root / kind / split / city
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{city}_{number:06d}_000019_{suffix}.png", compress_level=3)


def check_card(root: Path, expected: dict) -> None:
    """Raise ValueError unless ``root`` holds scenes of the expected parameters."""
    path = root / CARD
    if not path.is_file():
        raise ValueError(f"{root} exists but holds no {CARD}, so it is no scenes data set: name another folder")
    found = json.loads(path.read_text())
    if found != expected:
        differing = [
            f"{key} is {found.get(key)}, not {value}" for key, value in expected.items() if found.get(key) != value
        ]
        raise ValueError(f"{root} holds other scenes ({'; '.join(differing)}): delete it or name another folder")
