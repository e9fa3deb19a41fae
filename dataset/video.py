"""Read videos."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")


def read_frames(path: Path, every: int = 1) -> Iterator[Tensor]:
    """Every ``every``-th frame of a video from the first, uint8 (3, H, W) RGB, with a progress bar.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be decoded.
    """
    import cv2  # slow to import

    with tqdm(total=num_frames(path), desc=path.name, unit="frame", disable=None) as progress:
        video = cv2.VideoCapture(str(path))
        number = 0
        try:
            while video.grab():
                if number % every == 0:
                    _, frame = video.retrieve()
                    yield torch.from_numpy(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)
                number += 1
                progress.update()
        finally:
            video.release()


def num_frames(path: Path) -> int:
    """As the file says; raises as ``read_frames``."""
    return int(describe_video(path)[1])


def frame_rate(path: Path) -> float:
    """Frames a second; raises as ``read_frames``."""
    return describe_video(path)[0]


def describe_video(path: Path) -> tuple[float, float]:
    """Frames a second, and how many; raises as ``read_frames``."""
    import cv2

    if not path.is_file():
        raise FileNotFoundError(f"no video {path}")
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened() or not video.read()[0]:
            raise ValueError(f"{path} cannot be decoded: it is damaged or no video")
        return video.get(cv2.CAP_PROP_FPS) or 25.0, video.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        video.release()
