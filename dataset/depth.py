"""Depth maps: what their values mean, and reading and writing the files that hold them."""

import io
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segdistill.dataset.files import open_image, read_bytes

DEPTH_SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".pfm")
PNG_SCALE = 256  # stored values a metre in the PNG files that are written; KITTI's convention, 0 is void


class DepthRange(NamedTuple):
    """The ends of a depth map's values, above 0; metric: in metres, or else relative, where a map means its inverse up
    to a scale and a shift of its own."""

    low: float
    high: float
    metric: bool = True


class Storage(NamedTuple):
    """How a file's values mean depth: ``scale * value`` metres (0.001: it stores millimetres), or with ``inverse``
    ``scale / value`` (a disparity in pixels; the scale is focal length x baseline)."""

    scale: float = 1.0
    inverse: bool = False


def depth_of(values: np.ndarray, storage: Storage, limits: DepthRange) -> Tensor:
    """Stored values (H, W) as depth, float32 metres; NaN where they are 0 or below, not finite or outside of
    ``limits``."""
    values = values.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = storage.scale / values if storage.inverse else storage.scale * values
        known = np.isfinite(depth) & (values > 0) & (depth >= limits.low) & (depth <= limits.high)
    return torch.from_numpy(np.where(known, depth, np.nan).astype(np.float32))


def read_values(path: Path) -> np.ndarray:
    """The values (H, W) as they are stored: PNG of 16 bits, TIFF of 16 bits or floats, .npy or PFM.

    8-bit PNG and TIFF are read too: ``check`` names them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such map; names the file.
    """
    suffix, data = path.suffix.lower(), read_bytes(path)
    if suffix == ".npy":
        try:
            values = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
    elif suffix == ".pfm":
        values = parse_pfm(data, path)
    else:
        values = np.asarray(open_image(path, data)[0])
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise ValueError(
            f"{path}: a depth map is (H, W) of numbers, this is {values.shape} of {values.dtype}: save it as 16-bit "
            "PNG, float TIFF, .npy or PFM"
        )
    return values


def parse_pfm(data: bytes, path: Path) -> np.ndarray:
    """The values (H, W) of a grey PFM; its rows come from the bottom, the sign of its scale is the byte order."""
    header = re.match(rb"Pf\s+(\d+)\s+(\d+)\s+(-?[\d.]+(?:[eE][+-]?\d+)?)\s", data)
    if not header:
        raise ValueError(f"{path} is no PFM of one channel: it begins with {data[:12]!r}")
    width, height = int(header[1]), int(header[2])
    values = np.frombuffer(data[header.end() :], "<f4" if float(header[3]) < 0 else ">f4")
    if len(values) != width * height:
        raise ValueError(f"{path} holds {len(values)} of {width * height} values: fetch it again")
    return values.reshape(height, width)[::-1]


def encode_depth(depth: np.ndarray) -> np.ndarray:
    """Depth (H, W) in metres as uint16 of 1/256 m for a PNG, 0 where it is not finite; at most 255.99 m."""
    known = np.isfinite(depth)
    return np.where(known, np.clip(np.round(np.where(known, depth, 0) * PNG_SCALE), 1, 65535), 0).astype(np.uint16)
