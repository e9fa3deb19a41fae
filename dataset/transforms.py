"""Training augmentation, a pure function of the generator it is given."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.dataset.base import void_value


class RandomCrop:
    """Random scale, crop and horizontal mirror.

    The window is chosen first and only it is resized: the same picture as resizing the whole image and cropping, at a
    fraction of the work. Where the scaled image is smaller than the crop it is padded at the bottom and right, the
    image with ``fill`` and the label with void.

    Args:
        size: (height, width) of the crop, each 1 or more.
        scale: (smallest, largest) factor; (1, 1) does not resize.
        mirror: flip half of the samples.
        fill: RGB padding colour, the mean colour in the originals.
    """

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float] = (1.0, 1.0),
        mirror: bool = False,
        fill: tuple[int, int, int] = (124, 116, 104),
    ):
        if min(size) < 1 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"a crop needs sides of 1 or more and 0 < least scale <= greatest, not {size}, {scale}")
        self.size, self.scale, self.mirror = size, scale, mirror
        self.fill = torch.tensor(fill, dtype=torch.uint8).view(3, 1, 1)

    def __call__(self, image: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """image: uint8 (3, H, W); label: (H, W), see ``Sample``; returns both at ``size``."""
        where_y, where_x, how_large, mirror = torch.rand(4, generator=generator).tolist()
        factor = self.scale[0] + (self.scale[1] - self.scale[0]) * how_large
        rows, height = window(image.shape[1], self.size[0], factor, where_y)
        columns, width = window(image.shape[2], self.size[1], factor, where_x)
        image, label = image[:, rows, columns], label[None, rows, columns]
        if image.shape[1:] != (height, width):
            # What torchvision's resize does of uint8, whose import takes as long as torch's.
            size = [height, width]
            image = image.float() if size == [1, 1] else image  # torch's kernel for uint8 cannot make a single pixel
            image = F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
            image = image.round().byte() if image.is_floating_point() else image  # as the kernel for uint8 does
            label = F.interpolate(label[None], size, mode="nearest-exact")[0]
        if self.mirror and mirror < 0.5:
            image, label = image.flip(2), label.flip(2)
        if (height, width) == self.size:
            return image.contiguous(), label[0].contiguous()

        padded_image = self.fill.repeat(1, *self.size)
        padded_label = torch.full(self.size, void_value(label), dtype=label.dtype)
        padded_image[:, :height, :width] = image
        padded_label[:height, :width] = label[0]
        return padded_image, padded_label

    def padding(self, sizes: Sequence[tuple[int, int]]) -> float:
        """The share of a crop that is padding, 0..1, on average over images of these (height, width)."""
        low, high = self.scale
        factors = [low + (high - low) * (i + 0.5) / 16 for i in range(16)]
        filled = [
            window(height, self.size[0], factor, 0)[1] * window(width, self.size[1], factor, 0)[1]
            for height, width in sizes
            for factor in factors
        ]
        return 1 - sum(filled) / len(filled) / (self.size[0] * self.size[1])


def window(length: int, target: int, factor: float, where: float) -> tuple[slice, int]:
    """The part of an axis that fills ``target`` pixels once scaled by ``factor``, and its length after scaling."""
    extent = min(length, max(1, round(target / factor)))
    start = round(where * (length - extent))
    return slice(start, start + extent), min(target, max(1, round(extent * factor))) if extent == length else target
