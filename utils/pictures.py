"""Input images of test.py, the names and the PNGs of its predictions."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segdistill.dataset.files import SUFFIXES
from segdistill.dataset.pairs import describe_unused, read_lines, require_listed, walk
from segdistill.dataset.video import VIDEO_SUFFIXES

logger = logging.getLogger(__name__)


def checkpoint_names(files: Sequence[Path]) -> list[str]:
    """Names for columns and folders: the file names, with their folder's name where they are equal."""
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        names = [f"{file.absolute().parent.name}_{file.stem}" for file in files]
    if len(set(names)) < len(names):
        raise ValueError(f"these checkpoints have the same names: {', '.join(map(str, files))}")
    return names


def picture_files(path: Path) -> list[Path]:
    """The images of a folder, or of a list (relative to the list); other files are logged.

    Raises:
        FileNotFoundError: no such folder or list, no picture in it, or a line names none.
        ValueError: neither a folder nor a list.
    """
    if path.is_dir():
        found = [file for file in walk(path) if not file.name.startswith(".")]
        files = [file for file in found if file.suffix.lower() in SUFFIXES]
        if others := [file for file in found if file.suffix.lower() not in SUFFIXES]:
            logger.warning("%s: %s", path, describe_unused(others))
    elif path.suffix == ".txt" and path.is_file():
        files = []
        for number, line in read_lines(path):
            files.append(path.parent / line.strip())
            require_listed(files[-1], f"{path}:{number}")
    elif path.exists():
        raise ValueError(f"{path}: expected a folder, a list (.txt) or a video ({', '.join(VIDEO_SUFFIXES)})")
    else:
        raise FileNotFoundError(f"no {path}")
    if not files:
        raise FileNotFoundError(f"no pictures ({', '.join(SUFFIXES)}) in {path}")
    return files


def output_names(files: Sequence[Path]) -> dict[str, Path]:
    """Unique output names: the stem or, if two files share it, the path below their common folder."""
    stems = [file.stem for file in files]
    if len(set(stems)) == len(stems):
        return dict(zip(stems, files, strict=True))
    files = [file.absolute() for file in files]
    if twice := [str(file) for file, count in Counter(files).items() if count > 1]:
        raise ValueError(f"named more than once: {', '.join(twice[:3])}")
    top = next(folder for folder in files[0].parents if all(folder in file.parents for file in files))
    return {str(file.relative_to(top)): file for file in files}


def png_of(picture: np.ndarray) -> bytes:
    """A picture (H, W, 3) uint8 RGB, or a map (H, W) uint8 or uint16, as PNG, by OpenCV: faster than Pillow."""
    import cv2  # slow to import

    return cv2.imencode(".png", picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
