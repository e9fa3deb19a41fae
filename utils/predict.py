"""Predictors: functions from normalised images (N, 3, H, W) to logits (N, C, H, W) at the size of the images."""

from collections.abc import Callable

import torch
from torch import Tensor

from segdistill.network import SegmentationNetwork, resize

Predictor = Callable[[Tensor], Tensor]


def whole(network: SegmentationNetwork) -> Predictor:
    """Each image in one piece. The network runs in eval mode and is put back into the mode it was in.

    Raises:
        ValueError: the network has no classes.
    """
    if not network.num_classes:
        raise ValueError(f"{type(network).__name__} has no classes, so it predicts nothing")

    @torch.no_grad()
    def predict(images: Tensor) -> Tensor:
        training = network.training
        network.eval()
        parameter = next(network.parameters())
        logits = network(images.to(parameter.device).contiguous(memory_format=torch.channels_last)).logits.float()
        network.train(training)
        return resize(logits, images.shape[2:])

    return predict


def class_ids(logits: Tensor) -> Tensor:
    """The best class of each position, (N, H, W) uint8 on the CPU, of logits (N, C, H, W)."""
    return logits.argmax(1).to(torch.uint8).cpu()
