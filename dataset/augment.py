"""Augmentation beyond crops, by name: ``--augment jitter=0.4 grey=0.2 blur=0.5``.

Each is a function (image, label, value, generator) -> (image, label) and one entry of ``AUGMENTATIONS``. All that is
random comes from the generator, so that a sample is a function of (seed, epoch, index). torchvision does the work; its
import takes as long as torch's, so it waits for the first use.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segdistill.dataset.base import void_value
from segdistill.dataset.transforms import FILL, RandomCrop

Apply = Callable[[Tensor, Tensor, float, torch.Generator], tuple[Tensor, Tensor]]


class Augmentation(NamedTuple):
    """One of ``AUGMENTATIONS``: its function, its value if none is given, the greatest value, and what it means.

    ``photometric``: it changes colours alone, so that the teacher may see the sample without it.
    """

    apply: Apply
    default: float
    greatest: float
    meaning: str
    photometric: bool = True


def functional():
    from torchvision.transforms.v2 import functional

    return functional


def uniform(count: int, generator: torch.Generator) -> list[float]:
    """``count`` numbers in -1..1."""
    return (2 * torch.rand(count, generator=generator) - 1).tolist()


def rotate(image: Tensor, label: Tensor, value: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """About the centre; corners that were outside are filled with the mean colour and void."""
    (turn,), modes = uniform(1, generator), functional().InterpolationMode
    image = functional().rotate(image, value * turn, modes.BILINEAR, fill=list(FILL))
    label = functional().rotate(label[None], value * turn, modes.NEAREST, fill=[void_value(label)])[0]
    return image, label


def photometric(image: Tensor, label: Tensor, value: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Liu et al., SSD, ECCV 2016, as mmsegmentation has it: brightness +-32 of 255, contrast and saturation x 0.5..1.5,
    hue +-18 of 180 degrees, each with probability 1/2, contrast before or after the two others."""
    brightness, contrast, saturation, hue = (value * amount for amount in uniform(4, generator))
    *used, first = (torch.rand(5, generator=generator) < 0.5).tolist()
    if used[0]:
        image = as_bytes(image + 32 * brightness)
    if used[1] and first:
        image = as_bytes(image * (1 + contrast / 2))
    if used[2]:
        image = functional().adjust_saturation(image, 1 + saturation / 2)
    if used[3]:
        image = functional().adjust_hue(image, hue / 10)
    if used[1] and not first:
        image = as_bytes(image * (1 + contrast / 2))
    return image, label


def as_bytes(image: Tensor) -> Tensor:
    return image.round().clamp(0, 255).byte()


def jitter(image: Tensor, label: Tensor, value: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Brightness, contrast, saturation x 1 +- value, hue +- value / 4 turns, in any order, in 80 % of the samples."""
    amounts, order = uniform(4, generator), torch.randperm(4, generator=generator).tolist()
    if torch.rand(1, generator=generator) >= 0.8:
        return image, label
    names = ("brightness", "contrast", "saturation", "hue")
    for number in order:
        amount = value * amounts[number]
        adjust = getattr(functional(), f"adjust_{names[number]}")
        image = adjust(image, amount / 4 if names[number] == "hue" else 1 + amount)
    return image, label


def grey(image: Tensor, label: Tensor, value: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if torch.rand(1, generator=generator) < value:
        image = functional().rgb_to_grayscale(image, num_output_channels=3)
    return image, label


def blur(image: Tensor, label: Tensor, value: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Gaussian, of a standard deviation of 0..1 pixels, as in DeepLab of jfzhang95 and AKD."""
    chance, sigma = torch.rand(2, generator=generator).tolist()
    if chance < value:
        kernel = [min(7, 2 * side - 1) for side in (image.shape[2], image.shape[1])]
        image = functional().gaussian_blur(image, kernel, [max(sigma, 0.01)])
    return image, label


# In the order in which they are applied, those that move pixels first.
AUGMENTATIONS: dict[str, Augmentation] = {
    "rotate": Augmentation(rotate, 10.0, 180.0, "by up to VALUE degrees to either side", photometric=False),
    "photometric": Augmentation(photometric, 1.0, 2.0, "photometric distortion of SSD and mmsegmentation, x VALUE"),
    "jitter": Augmentation(
        jitter, 0.4, 1.0, "colour jitter of brightness, contrast, saturation, and of hue by a quarter"
    ),
    "grey": Augmentation(grey, 0.2, 1.0, "greyscale, in a share of VALUE of the samples"),
    "blur": Augmentation(blur, 0.5, 1.0, "Gaussian blur of up to a pixel, in a share of VALUE of the samples"),
}


def parse_augmentations(words: Sequence[str]) -> dict[str, float]:
    """``NAME[=VALUE]`` words as values by name, in the order in which they are applied.

    Raises:
        ValueError: a name that does not exist or comes twice, or a value outside its limits.
    """
    values = {}
    for word in words:
        name, sign, text = word.partition("=")
        if name not in AUGMENTATIONS:
            raise ValueError(f"no augmentation {name!r}; known: {', '.join(AUGMENTATIONS)} (--list-augmentations)")
        if name in values:
            raise ValueError(f"augmentation {name} is given twice")
        known = AUGMENTATIONS[name]
        try:
            values[name] = float(text) if sign else known.default
        except ValueError:
            values[name] = math.nan
        if not 0 < values[name] <= known.greatest:
            raise ValueError(f"augmentation {word}: expected a number above 0 and at most {known.greatest:g}")
    return {name: values[name] for name in AUGMENTATIONS if name in values}


def describe_augmentations() -> str:
    """A line each: name, the value if none is given, meaning."""
    words = {f"{name}={known.default:g}": known.meaning for name, known in AUGMENTATIONS.items()}
    width = max(map(len, words))
    return "\n".join(f"  {word:{width}}  {meaning}" for word, meaning in words.items())


class AugmentedCrop(RandomCrop):
    """A ``RandomCrop`` and what follows it.

    Args:
        steps: values of augmentations by name.
        weak_view: also return the image without the photometric steps, for the teacher.
        crop: see ``RandomCrop``.
    """

    def __init__(self, *crop, steps: Mapping[str, float], weak_view: bool = False, **settings):
        super().__init__(*crop, **settings)
        self.steps, self.weak_view = dict(steps), weak_view
        functional()  # before the loader's processes are forked, which then need not import it

    def __call__(self, image: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """As ``RandomCrop``; with ``weak_view`` a third tensor, uint8 (3, H, W)."""
        image, label = super().__call__(image, label, generator)
        weak = image
        for name, known in AUGMENTATIONS.items():
            if name in self.steps:
                image, label = known.apply(image, label, self.steps[name], generator)
                weak = weak if known.photometric else image
        return (image, label, weak) if self.weak_view else (image, label)
