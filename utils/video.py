"""Write pictures as a video."""

import logging
import shutil
from pathlib import Path
from types import TracebackType

import numpy as np

from segdistill.libs.files import replacing

logger = logging.getLogger(__name__)


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
