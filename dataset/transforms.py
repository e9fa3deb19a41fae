"""Training augmentation, a pure function of the generator it is given."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.dataset.base import void_value
from segdistill.dataset.ids import IGNORE_INDEX

FILL = (124, 116, 104)  # RGB padding colour, the mean colour in the originals
TRIES = 10  # to find a crop that no class fills, as in mmsegmentation


class RandomCrop:
    """Random scale, crop and horizontal mirror.

    The window is chosen first and only it is resized: the same picture as resizing the whole image and cropping, at a
    fraction of the work. Where the scaled image is smaller than the crop it is padded at the bottom and right, the
    image with ``fill`` and the label with void.

    Args:
        size: (height, width) of the crop, each 1 or more.
        scale: (smallest, largest) factor; (1, 1) does not resize.
        mirror: flip half of the samples.
        fill: RGB padding colour.
        scale_step: factors at this distance only, from the smallest: 0.1 for the originals' 0.5, 0.6 ...
        short_side: (smallest, largest) length in pixels that the short side is scaled to, in place of ``scale``.
        max_class_share: choose another window, up to 10 times, where one class has more of the labelled pixels; for
            labels that are class ids.
        scale_labels: divide the labels by the factor, as depth is: what is shown twice as large is half as far.
    """

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float] = (1.0, 1.0),
        mirror: bool = False,
        fill: tuple[int, int, int] = FILL,
        scale_step: float | None = None,
        short_side: tuple[int, int] | None = None,
        max_class_share: float | None = None,
        scale_labels: bool = False,
    ):
        if min(size) < 1 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"a crop needs sides of 1 or more and 0 < least scale <= greatest, not {size}, {scale}")
        if short_side and (scale != (1.0, 1.0) or not 0 < short_side[0] <= short_side[1]):
            raise ValueError(f"short_side {short_side}: 1 or more, the smaller length first, and no scale beside it")
        if scale_step is not None and not 0 < scale_step <= scale[1] - scale[0]:
            raise ValueError(f"scale_step {scale_step}: above 0, and no larger than the range of {scale}")
        self.size, self.scale, self.mirror = size, scale, mirror
        self.scale_step, self.short_side, self.max_class_share = scale_step, short_side, max_class_share
        self.scale_labels = scale_labels
        self.fill = torch.tensor(fill, dtype=torch.uint8).view(3, 1, 1)

    def __call__(self, image: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """image: uint8 (3, H, W); label: (H, W), see ``Sample``; returns both at ``size``."""
        where_y, where_x, how_large, mirror = torch.rand(4, generator=generator).tolist()
        factor = self.factor(how_large, min(image.shape[1:]))
        for _ in range(TRIES):
            rows, height = window(image.shape[1], self.size[0], factor, where_y)
            columns, width = window(image.shape[2], self.size[1], factor, where_x)
            if self.max_class_share is None or class_share(label[rows, columns]) <= self.max_class_share:
                break
            where_y, where_x = torch.rand(2, generator=generator).tolist()
        image, label = image[:, rows, columns], label[None, rows, columns]
        if image.shape[1:] != (height, width):
            # What torchvision's resize does of uint8, whose import takes as long as torch's.
            size = [height, width]
            image = image.float() if size == [1, 1] else image  # torch's kernel for uint8 cannot make a single pixel
            image = F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
            image = image.round().byte() if image.is_floating_point() else image  # as the kernel for uint8 does
            label = F.interpolate(label[None], size, mode="nearest-exact")[0]
        if self.scale_labels:
            label = label / factor
        if self.mirror and mirror < 0.5:
            image, label = image.flip(2), label.flip(2)
        if (height, width) == self.size:
            return image.contiguous(), label[0].contiguous()

        padded_image = self.fill.repeat(1, *self.size)
        padded_label = torch.full(self.size, void_value(label), dtype=label.dtype)
        padded_image[:, :height, :width] = image
        padded_label[:height, :width] = label[0]
        return padded_image, padded_label

    def factor(self, how_large: float, short_side: int) -> float:
        """The factor of scale at a place in 0..1 of its range, of an image with this short side."""
        if self.short_side:
            low, high = self.short_side
            return (low + int((high - low + 1) * how_large)) / short_side
        low, high = self.scale
        if self.scale_step:
            steps = int((high - low) / self.scale_step + 1e-6)
            return low + self.scale_step * int((steps + 1) * how_large)
        return low + (high - low) * how_large

    def padding(self, sizes: Sequence[tuple[int, int]]) -> float:
        """The share of a crop that is padding, 0..1, on average over images of these (height, width)."""
        filled = [
            window(height, self.size[0], factor, 0)[1] * window(width, self.size[1], factor, 0)[1]
            for height, width in sizes
            for factor in (self.factor((i + 0.5) / 16, min(height, width)) for i in range(16))
        ]
        return 1 - sum(filled) / len(filled) / (self.size[0] * self.size[1])


def window(length: int, target: int, factor: float, where: float) -> tuple[slice, int]:
    """The part of an axis that fills ``target`` pixels once scaled by ``factor``, and its length after scaling."""
    extent = min(length, max(1, round(target / factor)))
    start = round(where * (length - extent))
    return slice(start, start + extent), min(target, max(1, round(extent * factor))) if extent == length else target


def class_share(label: Tensor) -> float:
    """The share of the most frequent class in the labelled pixels of a label (H, W) uint8; 0 if there are none."""
    counts = torch.bincount(label.flatten(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
    return (counts.max() / counts.sum().clamp(min=1)).item()
