"""Read the frames of a video; write pictures as a video."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from segdistill.libs.files import replacing

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
logger = logging.getLogger(__name__)


def read_frames(path: Path) -> Iterator[Tensor]:
    """The frames of a video, uint8 (3, H, W) RGB, with a progress bar.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be decoded.
    """
    import cv2  # slow to import

    with tqdm(total=num_frames(path), desc=path.name, unit="frame", disable=None) as progress:
        video = cv2.VideoCapture(str(path))
        try:
            while (frame := video.read()[1]) is not None:
                yield torch.from_numpy(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)
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


class VideoWriter:
    """An .mp4 (VP9, which browsers play) of pictures (H, W, 3) uint8 RGB of one size; renamed when complete.

    VP9 halves its colours' resolution, so odd heights and widths are made even by doubling the last row or column.
    """

    def __init__(self, path: Path, rate: float):
        self.path, self.rate, self.video = path, rate, None
        self.temporary = path.with_name(f".{path.name}")

    def add(self, picture: np.ndarray) -> None:
        """ValueError if this machine's OpenCV cannot write such a video."""
        import cv2  # slow to import

        height, width = picture.shape[:2]
        picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self.video is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.video = self._open(*picture.shape[:2])
        self.video.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def _open(self, height: int, width: int) -> object:
        import cv2  # slow to import

        for codec in ("vp09", "mp4v"):
            code = cv2.VideoWriter_fourcc(*codec)
            video = cv2.VideoWriter(str(self.temporary), code, self.rate, (width, height))
            if video.isOpened():
                if codec == "mp4v":
                    logger.warning("OpenCV has no VP9 here: %s is MPEG-4, which browsers do not play", self.path)
                return video
        raise ValueError(f"OpenCV cannot write {self.path} of {height}x{width}")

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, where: TracebackType | None) -> None:
        if self.video is not None:
            self.video.release()
        try:
            if kind is None and self.video is not None:
                with self.temporary.open("rb") as whole, replacing(self.path) as file:
                    shutil.copyfileobj(whole, file)
        finally:
            self.temporary.unlink(missing_ok=True)
