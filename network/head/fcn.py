"""The head of fully convolutional networks (Long et al., CVPR 2015), for deep supervision."""

from torch import nn

from segdistill.libs import get_norm


def fcn_head(in_channels: int, channels: int, num_classes: int, norm: str, *, skd: bool = False) -> nn.Sequential:
    """Maps (N, in_channels, h, w) to logits (N, num_classes, h, w): a 3x3 and a 1x1 convolution.

    Args:
        channels: between the two.
        norm: name of a normalisation factory in ``libs``.
        skd: as in SKD, a bias before the BatchNorm, leaky ReLU and dropout of whole channels.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=skd),
        get_norm(norm)(channels, activation="leaky_relu" if skd else "relu"),
        nn.Dropout2d(0.1) if skd else nn.Dropout(0.1),
        nn.Conv2d(channels, num_classes, 1),
    )
