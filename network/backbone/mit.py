"""Mix Transformer, the encoder of SegFormer (Xie et al., NeurIPS 2021). Parameter names are the authors'."""

from collections.abc import Collection

import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.network.backbone.base import Backbone
from segdistill.network.base import Feature

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
STRIDES = (4, 8, 16, 32)
EXPANSION = 4


class PatchEmbedding(nn.Module):
    """Images or maps (N, C, H, W) to tokens (N, h, w, C') of overlapping patches."""

    def __init__(self, in_channels: int, channels: int, patch: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, patch, stride, padding=patch // 2)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class Attention(nn.Module):
    """Self-attention of tokens (N, h, w, C) whose keys and values are those of ``reduction`` x ``reduction`` tokens."""

    def __init__(self, channels: int, heads: int, reduction: int):
        super().__init__()
        self.heads = heads
        self.reduction = reduction
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, reduction)
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        query = self.q(x).flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        reduced = x
        if self.reduction > 1:
            reduced = self.norm(self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        key, value = (
            half.unflatten(-1, (self.heads, -1)).transpose(1, 2) for half in self.kv(reduced).flatten(1, 2).chunk(2, -1)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).reshape(x.shape))


class MixFFN(nn.Module):
    """Two linear layers around a 3x3 depthwise convolution, which encodes positions."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = EXPANSION * channels
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dwconv(self.fc1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.fc2(F.gelu(x))


class Block(nn.Module):
    """Attention and feed-forward network, each with LayerNorm before it and a shortcut around it.

    ``drop_path`` is the share of the samples that, in training, take a shortcut alone.
    """

    def __init__(self, channels: int, heads: int, reduction: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = Attention(channels, heads, reduction)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = MixFFN(channels)
        self.drop_path = drop_path

    def drop(self, x: Tensor) -> Tensor:
        if not (self.training and self.drop_path):
            return x
        keep = 1 - self.drop_path
        return x * x.new_full((len(x), 1, 1, 1), keep).bernoulli() / keep

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class MiT(Backbone):
    """Features: ``layer1`` (stride 4) to ``layer4`` (stride 32), each after a LayerNorm.

    Args:
        widths: channels of each layer.
        depths: blocks of each layer.
        drop_path: share of the samples that skip the last block in training; it rises linearly from the first.
        checkpoint_blocks: recompute each block in the backward pass instead of keeping its maps.
    """

    def __init__(
        self,
        widths: tuple[int, int, int, int],
        depths: tuple[int, int, int, int],
        *,
        drop_path: float = 0.1,
        checkpoint_blocks: bool = False,
    ):
        super().__init__(checkpoint_blocks)
        rates = (drop_path * index / (sum(depths) - 1) for index in range(sum(depths)))
        in_channels = 3
        self.features = {}
        for number, (channels, depth, heads, reduction, stride) in enumerate(
            zip(widths, depths, HEADS, REDUCTIONS, STRIDES, strict=True), 1
        ):
            patch = PatchEmbedding(in_channels, channels, 7 if number == 1 else 3, 4 if number == 1 else 2)
            setattr(self, f"patch_embed{number}", patch)
            blocks = nn.ModuleList(Block(channels, heads, reduction, next(rates)) for _ in range(depth))
            setattr(self, f"block{number}", blocks)
            setattr(self, f"norm{number}", nn.LayerNorm(channels, eps=1e-6))
            self.features[f"layer{number}"] = Feature(channels, stride)
            in_channels = channels
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        x, maps = images, {}
        for number in (1, 2, 3, 4):
            tokens = getattr(self, f"patch_embed{number}")(x)
            for block in getattr(self, f"block{number}"):
                tokens = self.run(block, tokens)
            maps[f"layer{number}"] = x = getattr(self, f"norm{number}")(tokens).permute(0, 3, 1, 2)
        return maps
