"""Draw label maps in colour, over images, and pictures side by side."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw

Palette = Sequence[Sequence[int]]


def colorize(label: np.ndarray, palette: Palette) -> np.ndarray:
    """Colours (H, W, 3) uint8 of class ids (H, W), any integers; ids outside ``palette`` (255 is void) are black.

    Raises:
        ValueError: ``label`` is no map of integers.
    """
    colors = np.array([*palette, (0, 0, 0)], np.uint8)
    return colors[_fold(label, len(palette))]


def overlay(image: np.ndarray, label: np.ndarray, palette: Palette, alpha: float = 0.5) -> np.ndarray:
    """The image (H, W, 3) uint8 tinted by its classes (H, W); pixels of no class keep their own colour.

    Args:
        alpha: weight of the class colour, 0..1.

    Raises:
        ValueError: image and label differ in size.
    """
    ids = _fold(label, len(palette))
    if image.shape != (*ids.shape, 3):
        raise ValueError(f"image {image.shape} and label {ids.shape} differ in size; expected (H, W, 3) and (H, W)")
    tinted = (1 - alpha) * image + alpha * colorize(label, palette)
    return np.where((ids < len(palette))[..., None], tinted.round().astype(np.uint8), image)


def side_by_side(
    pictures: Mapping[str, np.ndarray], scale: Mapping[str, Sequence[int]] = MappingProxyType({})
) -> np.ndarray:
    """Pictures (H, W, 3) uint8 of one size in a row, each below its name, above a scale if there is one:
    (H + strips, n W, 3).

    Args:
        scale: colours (RGB, 0..255) of values by their names.
    """
    height, width, _ = next(iter(pictures.values())).shape
    text_size = max(12, height // 24)
    strip = Image.new("RGB", (len(pictures) * width, 3 * text_size // 2))
    draw = ImageDraw.Draw(strip)
    for i, name in enumerate(pictures):
        draw.text((i * width + text_size // 2, text_size // 6), name, fill=(255, 255, 255), font_size=text_size)
    rows = [np.asarray(strip), np.concatenate(list(pictures.values()), axis=1)]
    if scale:
        strip = Image.new("RGB", strip.size)
        draw = ImageDraw.Draw(strip)
        step = strip.width / len(scale)
        for i, (name, color) in enumerate(scale.items()):
            left, top = i * step, text_size // 6
            draw.rectangle([left, 0, left + text_size, strip.height], tuple(color))
            draw.text((left + 3 * text_size // 2, top), name, fill=(255, 255, 255), font_size=text_size)
        rows.append(np.asarray(strip))
    return np.concatenate(rows)


def _fold(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Class ids as indices (H, W), ``num_classes`` for every id that is none."""
    label = np.asarray(label)
    if label.ndim != 2 or label.dtype.kind not in "iu":
        raise ValueError(f"a label map is (H, W) of integers, not {label.shape} of {label.dtype}")
    ids = label.astype(np.intp)
    ids[(ids < 0) | (ids >= num_classes)] = num_classes
    return ids
