"""Input normalisation: channel order, mean, std and scale that a set of weights was trained with."""

import math
from dataclasses import astuple, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    """``scale * (x - mean) / std`` on 0..255 values, in the order of ``channels``, "RGB" or "BGR".

    It belongs to the weights, not to the data set: checkpoints carry it.

    Raises:
        ValueError: another order of channels, not three numbers, a number that is not finite, a std or scale of 0.
    """

    channels: str = "RGB"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    scale: float = 1.0

    def __post_init__(self):
        if self.channels not in ("RGB", "BGR"):
            raise ValueError(f"channels are RGB or BGR, not {self.channels!r}")
        numbers = (*self.mean, *self.std, self.scale)
        if len(self.mean) != 3 or len(self.std) != 3 or not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"a normalisation needs three finite means and stds and a scale, not {astuple(self)}")
        if 0 in (*self.std, self.scale):
            raise ValueError(f"a normalisation cannot have a std or a scale of 0: {astuple(self)}")
        # Files may contain lists; equality needs tuples.
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))

    def __call__(self, images: Tensor) -> Tensor:
        """RGB images (N, 3, H, W), uint8 or float 0..255, to network input, float32, same device and memory format."""
        mean, std = self._constants(images)
        return self._order(images).to(torch.float32).sub(mean).div_(std).mul_(self.scale)

    def invert(self, batch: Tensor) -> Tensor:
        """Network input back to RGB images, float32 0..255."""
        mean, std = self._constants(batch)
        return self._order(batch.to(torch.float32).div(self.scale).mul_(std).add_(mean))

    def convert(self, batch: Tensor, other: "Normalization") -> Tensor:
        """A batch in this convention, re-expressed in the other's; the very same tensor if they are equal."""
        return batch if other == self else other(self.invert(batch))

    def _order(self, images: Tensor) -> Tensor:
        return images.flip(1) if self.channels == "BGR" else images

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, 3, 1, 1)
        # A tensor that is made on a GPU would wait for it.
        mean, std = (
            torch.tensor(numbers, dtype=torch.float32).view(shape).to(like.device, non_blocking=True)
            for numbers in (self.mean, self.std)
        )
        return mean, std


IMAGENET = Normalization()
# The Caffe convention of SKD, CWD, IFVD, CIRKD and DIST: BGR, mean colour subtracted, no std.
CAFFE = Normalization("BGR", (104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0))
# The common conventions by name: unit is x / 255 in 0..1, half is (x / 255 - 0.5) / 0.5 in -1..1.
CONVENTIONS = {
    "imagenet": IMAGENET,
    "unit": Normalization(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0)),
    "caffe": CAFFE,
    "half": Normalization(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5)),
}


def parse_normalization(text: str) -> Normalization:
    """A name in ``CONVENTIONS``, or ``RGB:mean,mean,mean:std,std,std`` (or ``BGR:...``) of values 0..255.

    Raises: ValueError for anything else, and as ``Normalization``.
    """
    if text in CONVENTIONS:
        return CONVENTIONS[text]
    try:
        channels, *numbers = text.split(":")
        mean, std = (tuple(map(float, values.split(","))) for values in numbers)
    except ValueError:
        raise ValueError(f"expected {', '.join(CONVENTIONS)} or RGB:mean,mean,mean:std,std,std, not {text!r}") from None
    if 0 < max(mean) <= 1 and max(std) <= 1:
        raise ValueError(f"{text!r}: mean and std are of values 0..255; these, of values 0..1, times 255")
    return Normalization(channels, mean, std)
