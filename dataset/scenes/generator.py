"""Writes the scenes to a folder in Cityscapes' layout, completely or not at all."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from segdistill.dataset.depth import encode_depth
from segdistill.dataset.scenes.street import render_scene
from segdistill.libs.files import unfinished_beside

VERSION = 1  # raise it when the pictures change, so that an older folder is not taken for a new one
CITIES = {"train": ("aspen", "birch", "cedar"), "val": ("dogwood",), "test": ("elm",)}
FIRST_INDEX = {"train": 0, "val": 1_000_000, "test": 2_000_000}  # a split stays the same when another one grows
PARAMETERS = "scenes.json"


def generate(
    root: str | Path,
    num_train: int = 400,
    num_val: int = 80,
    num_test: int = 20,
    size: tuple[int, int] = (128, 256),
    seed: int = 0,
) -> Path:
    """Write the data set under ``root``, unless it is there already.

    Scenes are drawn to a temporary folder next to ``root`` that is renamed at the end. The next call deletes temporary
    folders of killed processes.

    Args:
        root: folder to make; its parents are made too.
        num_train, num_val, num_test: images of each split, at most 1,000,000.
        size: (height, width) of the images, at least (64, 128).
        seed: another seed gives other images throughout.

    Returns:
        ``root``, which holds leftImg8bit/, gtFine/, depth/ (16-bit PNG, 1/256 m, 0 is void) and scenes.json with these
        parameters.

    Raises:
        ValueError: ``root`` holds scenes of other parameters or something else, or a count or the size is out of range.
    """
    root = Path(root)
    counts = {"train": num_train, "val": num_val, "test": num_test}
    for split, count in counts.items():
        if not 0 <= count <= 1_000_000:
            raise ValueError(f"scenes: {count} images of split {split!r}; expected 0 to 1,000,000")
    parameters = {"version": VERSION, "seed": seed, "size": list(size), **counts}
    unfinished = unfinished_beside(root)
    if root.exists():
        require_parameters(root, parameters)
        return root
    try:
        unfinished.mkdir(parents=True)
        with tqdm(total=sum(counts.values()), desc=f"drawing {root}", unit="image", disable=None) as progress:
            scenes = [(split, number) for split, count in counts.items() for number in range(count)]
            draw(unfinished, scenes, size, seed, progress)
        (unfinished / PARAMETERS).write_text(json.dumps(parameters, indent=2) + "\n")
        try:
            os.sync()  # the pictures before their name
            unfinished.rename(root)
        except OSError:
            if not root.exists():
                raise
            require_parameters(root, parameters)  # another process was faster
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return root


def draw(root: Path, scenes: list[tuple[str, int]], size: tuple[int, int], seed: int, progress: tqdm) -> None:
    """Draw (split, number) scenes with one process per core, this one included.

    Raises:
        OSError: a scene could not be written.
    """
    processes = min(os.cpu_count() or 1, 1 + len(scenes) // 50)  # a process takes as long to start as some scenes
    jobs = [(root, scenes[i::processes], size, seed) for i in range(processes)]
    helpers = [multiprocessing.Process(target=draw_share, args=job, daemon=True) for job in jobs[1:]]
    for helper in helpers:
        helper.start()
    for scene in jobs[0][1]:
        write_scene(root, *scene, size, seed)
        progress.update(processes)
    for helper in helpers:
        helper.join()
    if any(helper.exitcode for helper in helpers):
        raise OSError(f"{root}: not every scene could be drawn there")


def draw_share(root: Path, scenes: list[tuple[str, int]], size: tuple[int, int], seed: int) -> None:
    parent = multiprocessing.parent_process()
    for scene in scenes:
        if not parent.is_alive():  # it was killed
            return
        write_scene(root, *scene, size, seed)


def write_scene(root: Path, split: str, number: int, size: tuple[int, int], seed: int) -> None:
    image, label, depth = render_scene(seed, FIRST_INDEX[split] + number, size)
    city = CITIES[split][number % len(CITIES[split])]
    for kind, suffix, pixels in (
        ("leftImg8bit", "leftImg8bit", image),
        ("gtFine", "gtFine_labelIds", label),
        ("depth", "depth", encode_depth(np.where(depth > 0, depth, np.nan))),
    ):
        folder = root / kind / split / city
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{city}_{number:06d}_000019_{suffix}.png", compress_level=3)


def require_parameters(root: Path, expected: dict) -> None:
    """Raise ValueError unless ``root`` holds scenes of the expected parameters."""
    path = root / PARAMETERS
    if not path.is_file():
        raise ValueError(f"{root} exists but holds no {PARAMETERS}, so it is no scenes data set: name another folder")
    try:
        found = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete {root} or name another folder") from error
    if found != expected:
        differing = [
            f"{key} is {found.get(key)}, not {value}" for key, value in expected.items() if found.get(key) != value
        ]
        raise ValueError(f"{root} holds other scenes ({'; '.join(differing)}): delete it or name another folder")
