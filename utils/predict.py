"""Predictors map normalised images (N, 3, H, W) to logits (N, C, H, W) at the size of the images.

They compose: ``resized(multi_scale(whole(network), (0.75, 1, 1.25), flip=True), (512, 1024))``.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.network import SegmentationNetwork, resize


class Predictor:
    """Logits or class ids of images, at the size of the images.

    ``coarse`` takes images (N, 3, H, W) and returns logits (N, C, h, w) at the network's stride, or any other size; the
    corners of both maps are aligned.
    """

    def __init__(self, coarse: Callable[[Tensor], Tensor]):
        self.coarse = torch.no_grad()(coarse)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, C, H, W) float32 of normalised images (N, 3, H, W)."""
        return resize(self.coarse(images), images.shape[2:])

    def class_ids(self, images: Tensor) -> Tensor:
        """The best class of each pixel, (N, H, W) uint8 on the CPU; cheaper than of the logits at full size."""
        return class_ids(self.coarse(images), images.shape[2:])


def whole(network: SegmentationNetwork, feature: str = "logits") -> Predictor:
    """Predict each image in one piece. The network runs in eval mode and is put back into the mode it was in.

    Args:
        feature: the feature map to predict from, see ``Task.feature``.

    Raises:
        ValueError: the network has no such map.
    """
    network.check_features({feature})

    def coarse(images: Tensor) -> Tensor:
        training = network.training
        if training:
            network.eval()
        parameter = next(network.parameters())
        images = images.to(parameter.device).contiguous(memory_format=torch.channels_last)
        maps = network.extract(images, frozenset({feature})).features[feature].float()
        if training:
            network.train()
        return maps

    return Predictor(coarse)


def sliding(
    predictor: Predictor, tile: tuple[int, int], overlap: float | tuple[float, float] = 1 / 3, batch_size: int = 8
) -> Predictor:
    """Predict the images tile by tile; where tiles overlap their logits are averaged.

    The last tiles of a row or a column are moved back inside. An image smaller than the tile is padded at the bottom
    and at the right by 0, the mean colour.

    Args:
        tile: (height, width).
        overlap: share of a tile that its neighbour covers too, at least; one for both axes, or vertical, horizontal.
        batch_size: tiles in a batch.

    Raises:
        ValueError: overlap outside 0 <= overlap < 1.
    """
    overlaps = overlap if isinstance(overlap, Sequence) else (overlap, overlap)
    if not all(0 <= share < 1 for share in overlaps):
        raise ValueError(f"tiles overlap by 0 or more and less than 1 of their size, not {overlap}")
    height, width = tile

    def coarse(images: Tensor) -> Tensor:
        rows, columns = images.shape[2:]
        images = F.pad(images, (0, max(width - columns, 0), 0, max(height - rows, 0)))
        windows = [
            (n, slice(y, y + height), slice(x, x + width))
            for n in range(len(images))
            for y in tile_starts(images.shape[2], height, overlaps[0])
            for x in tile_starts(images.shape[3], width, overlaps[1])
        ]
        total = None
        for i in range(0, len(windows), batch_size):
            part = windows[i : i + batch_size]
            logits = predictor(torch.stack([images[n, :, ys, xs] for n, ys, xs in part]))
            if total is None:
                total = logits.new_zeros(len(images), logits.shape[1], *images.shape[2:])
                hits = logits.new_zeros(len(images), 1, *images.shape[2:])
            for (n, ys, xs), one in zip(part, logits, strict=True):
                total[n, :, ys, xs] += one
                hits[n, :, ys, xs] += 1
        return total.div_(hits)[:, :, :rows, :columns]

    return Predictor(coarse)


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Start positions of tiles that cover ``length`` without a gap."""
    stride = math.ceil(round(tile * (1 - overlap), 6))
    return [min(i * stride, length - tile) for i in range(math.ceil((length - tile) / stride) + 1)]


def multi_scale(
    predictor: Predictor, scales: Sequence[float] = (1.0,), flip: bool = False, of_logits: bool = False
) -> Predictor:
    """Predict at several scales and, with ``flip``, mirrored too; the mean of the probabilities, as logits.

    ``of_logits`` takes the mean of the logits, as SKD's and CIRKD's evaluation did.
    """

    def coarse(images: Tensor) -> Tensor:
        size = images.shape[2:]
        total = 0
        for scale in scales:
            shown = resize(images, [max(1, round(side * scale)) for side in size])
            views = [predictor.coarse(shown)]
            if flip:
                views.append(predictor.coarse(shown.flip(3)).flip(3))
            for view in views:
                logits = resize(view, size)
                total = total + (logits if of_logits else logits.softmax(1))
        mean = total / (len(scales) * (1 + flip))
        # A probability of 0 would be an infinite logit, which interpolates to NaN.
        return mean if of_logits else mean.clamp_(min=torch.finfo(mean.dtype).tiny).log_()

    return Predictor(coarse)


def resized(predictor: Predictor, size: tuple[int, int] | float) -> Predictor:
    """Resize the images before prediction (bilinear, without antialiasing).

    Args:
        size: (height, width), or a factor of the images' own.
    """

    def coarse(images: Tensor) -> Tensor:
        shown = size if isinstance(size, Sequence) else [max(1, round(side * size)) for side in images.shape[2:]]
        return predictor.coarse(F.interpolate(images, size=tuple(shown), mode="bilinear", align_corners=False))

    return Predictor(coarse)


def class_ids(logits: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """``best_classes`` on the CPU."""
    return best_classes(logits, size).cpu()


def best_classes(logits: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Argmax over the classes, (N, H, W) uint8, of logits (N, C, h, w) resized to ``size`` (H, W).

    Equal to ``resize(logits, size).argmax(1)``; of classes that tie exactly, any.
    """
    size = tuple(size or logits.shape[2:])
    enlarged = size != logits.shape[2:] and all(1 < old <= new for old, new in zip(logits.shape[2:], size, strict=True))
    if logits.device.type == "cpu" and enlarged:
        return torch.stack([enlarged_class_ids(image, size) for image in logits])
    # max finds its index several times as fast as argmax does.
    return resize(logits, size).max(1).indices.to(torch.uint8)


def enlarged_class_ids(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """``best_classes`` of the logits (C, h, w) of one image, without a map of C x H x W.

    Between four neighbouring positions of the logits interpolation is monotone: where one class is the best at all
    four it is the best in between, and nothing is to be computed.
    """
    logits = logits.permute(1, 2, 0).contiguous()
    height, width, _ = logits.shape
    rows, below = interpolation(height, size[0])
    columns, right = interpolation(width, size[1])
    best = logits.max(2).indices.to(torch.uint8)
    corners = torch.stack([best[:-1, :-1], best[:-1, 1:], best[1:, :-1], best[1:, 1:]])
    mixed = (corners != corners[0]).any(0)[:, columns]
    ids = corners[0][:, columns][rows]
    end = 0
    for row, count in enumerate(torch.bincount(rows).tolist()):
        start, end = end, end + count
        places = mixed[row].nonzero()[:, 0]
        left = columns[places]
        band = logits[row : row + 2]
        upper, lower = torch.lerp(band.index_select(1, left), band.index_select(1, left + 1), right[places, None])
        values = torch.lerp(upper, lower, below[start:end, None, None])
        ids[start:end].index_copy_(1, places, values.max(2).indices.to(torch.uint8))
    return ids


def interpolation(old: int, new: int) -> tuple[Tensor, Tensor]:
    """Linear interpolation from ``old`` to ``new`` positions, ends aligned: lower index and upper weight of each."""
    # In float32, so that the weights equal torch's bit for bit.
    places = torch.arange(new) * (torch.tensor(float(old - 1)) / (new - 1))
    before = places.long().clamp_(max=old - 2)
    return before, places - before
