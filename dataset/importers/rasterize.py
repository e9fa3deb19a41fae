"""Shapes to pixels: a pixel belongs to a shape if its centre, half a pixel from the corner, lies inside.

Coordinates are (x, y) in pixels, (0, 0) the upper left corner of the image. Inside is even-odd: a ring in a ring is a
hole. A centre that lies on an edge belongs to the region at its right; where the edge is horizontal, to the one below.
So polygons that share an edge neither overlap nor leave a gap, and a box from 2 to 5 is the pixels 2, 3 and 4.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Region(NamedTuple):
    """Pixels: bool (h, w), and where their upper left one lies in the image."""

    mask: np.ndarray
    top: int = 0
    left: int = 0


NOTHING = Region(np.zeros((0, 0), bool))


def polygon(rings: Sequence[np.ndarray], size: tuple[int, int]) -> Region:
    """The pixels of an image of ``size`` (height, width) inside closed rings, each (N, 2) float (x, y)."""
    start = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    # The same arithmetic for an edge in both directions: neighbours agree to the bit.
    upward = (start[:, 1] <= end[:, 1])[:, None]
    (x, y), (x_end, y_end) = np.where(upward, start, end).T, np.where(upward, end, start).T
    first, last = (np.clip(np.ceil(edge - 0.5), 0, size[0]).astype(np.int64) for edge in (y, y_end))
    count = last - first
    edge = np.repeat(np.arange(len(x)), count)
    if not len(edge):
        return NOTHING
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    slope = (x_end[edge] - x[edge]) / (y_end[edge] - y[edge])
    crossing = x[edge] + (row + 0.5 - y[edge]) * slope
    column = np.clip(np.ceil(crossing - 0.5), 0, size[1]).astype(np.int64)
    top, left = row.min(), column.min()
    height, width = row.max() - top + 1, column.max() - left
    crossings = np.bincount((row - top) * (width + 1) + column - left, minlength=height * (width + 1))
    inside = np.cumsum(crossings.reshape(height, width + 1), axis=1)[:, :-1] % 2 == 1
    return Region(inside, int(top), int(left))


def box(x: float, y: float, x_end: float, y_end: float, degrees: float = 0, about: Sequence[float] | None = None):
    """The corners (4, 2) of a box turned clockwise about a point; None: about its centre."""
    corners = np.array([(x, y), (x_end, y), (x_end, y_end), (x, y_end)], float)
    about = np.array(about) if about is not None else corners.mean(0)
    return about + (corners - about) @ rotation(degrees).T if degrees else corners


def ellipse(x: float, y: float, x_radius: float, y_radius: float, size: tuple[int, int], degrees: float = 0) -> Region:
    """The pixels whose centre lies in or on an ellipse, turned clockwise about its centre (x, y)."""
    reach = max(x_radius, y_radius)
    top, bottom = (int(np.clip(edge, 0, size[0])) for edge in (np.floor(y - reach), np.ceil(y + reach)))
    left, right = (int(np.clip(edge, 0, size[1])) for edge in (np.floor(x - reach), np.ceil(x + reach)))
    if reach <= 0 or min(x_radius, y_radius) <= 0:
        return NOTHING
    offsets = np.meshgrid(np.arange(left, right) + 0.5 - x, np.arange(top, bottom) + 0.5 - y)
    along, across = np.tensordot(rotation(-degrees), np.stack(offsets), 1)
    return Region((along / x_radius) ** 2 + (across / y_radius) ** 2 <= 1, top, left)


def rotation(degrees: float) -> np.ndarray:
    """The matrix that turns (x, y), y downwards, clockwise."""
    angle = np.deg2rad(degrees)
    return np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
