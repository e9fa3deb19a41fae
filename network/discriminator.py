"""The critic of holistic distillation: does a map of logits come from the teacher or from the student?

The discriminator of SAGAN (Zhang et al., ICML 2019) on raw logits, as in SKD's networks/sagan_models.py.
"""

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_SIDE = 64


class SpectralConv2d(nn.Conv2d):
    """Convolution by its weight over the weight's largest singular value (Miyato et al., ICLR 2018).

    The singular vectors ``u`` and ``v`` are followed by one power iteration in every forward pass, train and eval.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        rows, columns = self.weight.flatten(1).shape
        self.register_buffer("u", F.normalize(torch.randn(rows), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(columns), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.weight.flatten(1)
        # u and v are new tensors: the buffers change at the next call, which may come before this call's backward.
        with torch.no_grad():
            v = F.normalize(matrix.T @ self.u, dim=0)
            u = F.normalize(matrix @ v, dim=0)
            self.u.copy_(u)
            self.v.copy_(v)
        return self._conv_forward(x, self.weight / (u @ matrix @ v), self.bias)


class SelfAttention(nn.Module):
    """x + gamma * attention over all positions, gamma starting at 0."""

    def __init__(self, channels: int):
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def attention(self, x: Tensor) -> Tensor:
        """(N, HW, HW): attention weights of each position (row); rows sum to 1."""
        return (self.query(x).flatten(2).transpose(1, 2) @ self.key(x).flatten(2)).softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        attended = self.value(x).flatten(2) @ self.attention(x).transpose(1, 2)
        return x + self.gamma * attended.view_as(x)


class Discriminator(nn.Module):
    """Four strided spectral-norm convolutions with self-attention after the third and the fourth, then a score.

    Args:
        in_channels: classes of the logits.
        preprocess: 1 BatchNorm, 2 tanh, 3 from 0..255 to -1..1.
        conv_dim: width after the first convolution, doubled by each of the others.
    """

    def __init__(self, in_channels: int, preprocess: int = 1, conv_dim: int = 64):
        super().__init__()
        if preprocess not in (1, 2, 3):
            raise ValueError(f"unknown preprocess {preprocess}; known: 1 (BatchNorm), 2 (tanh), 3 (image range)")
        self.preprocess_mode = preprocess
        if preprocess == 1:
            self.preprocess = nn.BatchNorm2d(in_channels)
        self.conv1 = SpectralConv2d(in_channels, conv_dim, 4, stride=2, padding=1)
        self.conv2 = SpectralConv2d(conv_dim, 2 * conv_dim, 4, stride=2, padding=1)
        self.conv3 = SpectralConv2d(2 * conv_dim, 4 * conv_dim, 4, stride=2, padding=1)
        self.attention1 = SelfAttention(4 * conv_dim)
        self.conv4 = SpectralConv2d(4 * conv_dim, 8 * conv_dim, 4, stride=2, padding=1)
        self.attention2 = SelfAttention(8 * conv_dim)
        self.last = nn.Conv2d(8 * conv_dim, 1, 4)

    def forward(self, logits: Tensor) -> Tensor:
        """Scores (N, 1, h, w), 1x1 for logits (N, C, 65, 65) and one per patch for larger maps.

        Raises:
            ValueError: logits smaller than 64 on a side.
        """
        if min(logits.shape[2:]) < MIN_SIDE:
            raise ValueError(f"the discriminator needs at least {MIN_SIDE} positions a side, not {tuple(logits.shape)}")
        if self.preprocess_mode == 1:
            x = self.preprocess(logits)
        elif self.preprocess_mode == 2:
            x = logits.tanh()
        else:
            x = logits / 127.5 - 1
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.leaky_relu(conv(x), 0.1)
        x = self.attention1(x)
        x = F.leaky_relu(self.conv4(x), 0.1)
        return self.last(self.attention2(x))


ORIGINAL_NAMES = (
    (r"^l(\d)\.0\.module\.", r"conv\1."),
    (r"^(conv\d)\.weight_bar$", r"\1.weight"),
    (r"^(conv\d)\.weight_([uv])$", r"\1.\2"),
    (r"^attn(\d)\.", r"attention\1."),
    (r"^(attention\d\.(?:query|key|value))_conv\.", r"\1."),
    (r"^last\.0\.", "last."),
    (r"^preprocess_additional\.", "preprocess."),
)


def rename_original(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of SKD's discriminator under the names of ``Discriminator``."""
    renamed = {}
    for key, tensor in state_dict.items():
        for pattern, name in ORIGINAL_NAMES:
            key = re.sub(pattern, name, key)
        renamed[key] = tensor
    return renamed
