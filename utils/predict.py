"""Predictors: functions from normalised images (N, 3, H, W) to logits (N, C, H, W) at the size of the images.

They compose: ``resized(whole(network), (512, 1024))``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.network import SegmentationNetwork, resize


class Predictor:
    """``coarse`` makes logits (N, C, h, w) of images (N, 3, H, W), of any size that spans the images' area."""

    def __init__(self, coarse: Callable[[Tensor], Tensor]):
        self.coarse = torch.no_grad()(coarse)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, C, H, W) float32 of normalised images (N, 3, H, W)."""
        return resize(self.coarse(images), images.shape[2:])


def whole(network: SegmentationNetwork) -> Predictor:
    """Each image in one piece. The network runs in eval mode and is put back into the mode it was in."""

    def coarse(images: Tensor) -> Tensor:
        training = network.training
        network.eval()
        parameter = next(network.parameters())
        logits = network(images.to(parameter.device).contiguous(memory_format=torch.channels_last)).logits.float()
        network.train(training)
        return logits

    return Predictor(coarse)


def resized(predictor: Predictor, size: tuple[int, int]) -> Predictor:
    """The images are shown at ``size`` (H, W): bilinear, without antialiasing; the answer is at their own size."""
    return Predictor(
        lambda images: predictor.coarse(F.interpolate(images, size=size, mode="bilinear", align_corners=False))
    )


def class_ids(logits: Tensor) -> Tensor:
    """The best class of each position, (N, H, W) uint8 on the CPU, of logits (N, C, H, W)."""
    return logits.argmax(1).to(torch.uint8).cpu()
