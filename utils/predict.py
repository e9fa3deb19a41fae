"""A predictor is a function from normalised images to logits at image size."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segdistill.utils.evaluate import upsample_logits


def whole(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """A predictor of whole images (N, 3, H, W): runs the network in eval mode, without gradients."""

    @torch.no_grad()
    def predictor(images: Tensor) -> Tensor:
        mode = network.training
        network.eval()
        logits = network(images, aux=False).logits.float()
        network.train(mode)
        return upsample_logits(logits, images.shape[2:])

    return predictor
