"""ESPNet and its encoder ESPNet-C (Mehta et al., ECCV 2018). Parameter names are those of the released files."""

import torch
from torch import Tensor, nn

from segdistill.libs import get_norm
from segdistill.libs.prelu import PReLU
from segdistill.network.base import Feature, SegmentationNetwork

EPS = 1e-3  # of every BatchNorm in ESPNet


def conv(in_channels: int, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = (kernel - 1) // 2 * dilation
    return nn.Conv2d(in_channels, channels, kernel, stride, padding=padding, dilation=dilation, bias=False)


class Conv(nn.Module):
    """A bare convolution under the key ``conv``."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv = conv(in_channels, channels, kernel, stride, dilation)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class NormAct(nn.Module):
    """BatchNorm, PReLU."""

    def __init__(self, channels: int, norm: str):
        super().__init__()
        self.bn = get_norm(norm)(channels, eps=EPS)
        self.act = PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(x))


class ConvNormAct(NormAct):
    """3x3 convolution, BatchNorm, PReLU."""

    def __init__(self, in_channels: int, channels: int, norm: str, stride: int = 1):
        super().__init__(channels, norm)
        self.conv = conv(in_channels, channels, 3, stride)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.conv(x))


class SpatialPyramid(nn.Module):
    """Reduce to a fifth of the width, convolve with dilations 1, 2, 4, 8, 16, and join with hierarchical fusion:
    each dilated map but the first is summed with the ones before it, which removes gridding artefacts (section 3)."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int):
        super().__init__()
        narrow = channels // 5
        self.c1 = Conv(in_channels, narrow, kernel, stride)
        self.d1 = Conv(narrow, channels - 4 * narrow, 3)
        self.d2 = Conv(narrow, narrow, 3, dilation=2)
        self.d4 = Conv(narrow, narrow, 3, dilation=4)
        self.d8 = Conv(narrow, narrow, 3, dilation=8)
        self.d16 = Conv(narrow, narrow, 3, dilation=16)

    def fuse(self, x: Tensor) -> Tensor:
        x = self.c1(x)
        sum2 = self.d2(x)
        sum4 = sum2 + self.d4(x)
        sum8 = sum4 + self.d8(x)
        sum16 = sum8 + self.d16(x)
        return torch.cat([self.d1(x), sum2, sum4, sum8, sum16], dim=1)


class DownSampler(SpatialPyramid):
    """Spatial pyramid of stride 2, BatchNorm, PReLU."""

    def __init__(self, in_channels: int, channels: int, norm: str):
        super().__init__(in_channels, channels, kernel=3, stride=2)
        self.bn = get_norm(norm)(channels, eps=EPS)
        self.act = PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.fuse(x)))


class ESPBlock(SpatialPyramid):
    """Spatial pyramid of stride 1, residual where the widths agree, BatchNorm, PReLU."""

    def __init__(self, in_channels: int, channels: int, norm: str):
        super().__init__(in_channels, channels, kernel=1, stride=1)
        self.bn = NormAct(channels, norm)
        self.residual = in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        fused = self.fuse(x)
        return self.bn(x + fused if self.residual else fused)


BF16_ON_CPU = "bfloat16 on the CPU gives wrong gradients in dilated convolutions (seen with torch 2.12)"


class ESPNetC(SegmentationNetwork):
    """ESPNet-C, the encoder with a classifier: logits at stride 8.

    Features: ``layer1``, ``layer2``, ``layer3``, each before its activation too (``layer3.pre``); ``context`` is
    ``layer3``, which the classifier reads.

    Args:
        num_classes: channels of the logits.
        p: ESP blocks at stride 4.
        q: ESP blocks at stride 8.
        norm: name of a normalisation factory in ``libs``.
    """

    BF16_ON_CPU = BF16_ON_CPU

    def __init__(self, num_classes: int, *, p: int = 2, q: int = 8, norm: str = "batch_norm"):
        super().__init__()
        if p < 1 or q < 1:
            raise ValueError(f"espnet needs at least one block a level, not p={p}, q={q}")
        self.num_classes = num_classes
        self.level1 = ConvNormAct(3, 16, norm, stride=2)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.b1 = NormAct(19, norm)
        self.level2_0 = DownSampler(19, 64, norm)
        self.level2 = nn.ModuleList(ESPBlock(64, 64, norm) for _ in range(p))
        self.b2 = NormAct(131, norm)
        self.level3_0 = DownSampler(131, 128, norm)
        self.level3 = nn.ModuleList(ESPBlock(128, 128, norm) for _ in range(q))
        self.b3 = NormAct(256, norm)
        self.classifier = Conv(256, num_classes, 1)
        stages = {"layer1": Feature(19, 2), "layer2": Feature(131, 4), "layer3": Feature(256, 8)}
        self.features = {
            **stages,
            **{f"{name}.pre": feature for name, feature in stages.items()},
            "context": Feature(256, 8),
            "logits": Feature(num_classes, 8),
        }

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """The backbone's features and ``stem`` (16 channels, stride 2)."""
        half = self.pool(images)
        stem = self.level1(images)
        pre1 = self.b1.bn(torch.cat([stem, half], dim=1))
        layer1 = self.b1.act(pre1)

        first = x = self.level2_0(layer1)
        for block in self.level2:
            x = block(x)
        pre2 = self.b2.bn(torch.cat([x, first, self.pool(half)], dim=1))
        layer2 = self.b2.act(pre2)

        first = x = self.level3_0(layer2)
        for block in self.level3:
            x = block(x)
        pre3 = self.b3.bn(torch.cat([first, x], dim=1))
        layer3 = self.b3.act(pre3)
        maps = {"stem": stem, "layer1": layer1, "layer2": layer2, "layer3": layer3}
        return maps | {"layer1.pre": pre1, "layer2.pre": pre2, "layer3.pre": pre3}

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        maps = self.encode(images)
        maps["context"] = maps["layer3"]
        if "logits" in wanted:
            maps["logits"] = self.classifier(maps["context"])
        return maps

    def norm_before(self, feature: str) -> nn.BatchNorm2d:
        norms = {"layer1.pre": self.b1.bn, "layer2.pre": self.b2.bn, "layer3.pre": self.b3.bn}
        return norms[feature] if feature in norms else super().norm_before(feature)


class ESPNet(SegmentationNetwork):
    """ESPNet: ESPNet-C under a light decoder; logits at the size of the images.

    Features: ``layer1``, ``layer2``, ``layer3`` and ``layer1.pre`` ... as in ESPNet-C, ``encoder_logits`` (C channels,
    stride 8) and ``context`` (C channels, stride 2), which the last deconvolution reads.

    Args:
        num_classes: channels of the logits.
        p: ESP blocks at stride 4.
        q: ESP blocks at stride 8.
        norm: name of a normalisation factory in ``libs``.
        skip: what the decoder sees at stride 2: "fused" (19 channels: ``layer1``, as in the released training code,
            the CamVid file and SKD's files) or "stem" (16 channels: the first convolution alone, as in the released
            Cityscapes decoders).
    """

    BF16_ON_CPU = BF16_ON_CPU
    DEPTH_CHANNELS = 20  # its decoder is as wide as its logits

    def __init__(self, num_classes: int, *, p: int = 2, q: int = 8, skip: str = "fused", norm: str = "batch_norm"):
        super().__init__()
        if skip not in ("fused", "stem"):
            raise ValueError(f"unknown espnet skip {skip!r}; known: fused (19 channels), stem (16 channels)")
        if num_classes < 5:
            raise ValueError(
                f"espnet's decoder is a fifth of its classes wide, so {num_classes} classes are too few: 5 or more, or "
                "espnet_c, which has no decoder"
            )
        self.num_classes = num_classes
        self.skip = skip
        self.encoder = ESPNetC(num_classes, p=p, q=q, norm=norm)
        self.br = get_norm(norm)(num_classes, eps=EPS)
        self.up_l3 = nn.Sequential(deconv(num_classes))
        self.level3_C = Conv(131, num_classes, 1)
        self.combine_l2_l3 = nn.Sequential(NormAct(2 * num_classes, norm), ESPBlock(2 * num_classes, num_classes, norm))
        self.up_l2 = nn.Sequential(deconv(num_classes), NormAct(num_classes, norm))
        self.conv = ConvNormAct((19 if skip == "fused" else 16) + num_classes, num_classes, norm)
        self.classifier = deconv(num_classes)
        self.features = {
            **{name: feature for name, feature in self.encoder.features.items() if name.startswith("layer")},
            "encoder_logits": Feature(num_classes, 8),
            "context": Feature(num_classes, 2),
            "logits": Feature(num_classes, 1),
        }

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        maps = self.encoder.encode(images)
        if not wanted & {"encoder_logits", "context", "logits"}:
            return maps
        skip = maps["layer1" if self.skip == "fused" else "stem"]
        maps["encoder_logits"] = self.encoder.classifier(maps["layer3"])

        # An in-place norm would overwrite the map that the caller may have asked for.
        up3 = crop_like(self.up_l3(self.br(maps["encoder_logits"].clone())), maps["layer2"])
        merged = self.combine_l2_l3(torch.cat([self.level3_C(maps["layer2"]), up3], dim=1))
        up2 = crop_like(self.up_l2(merged), skip)
        maps["context"] = self.conv(torch.cat([up2, skip], dim=1))
        maps["logits"] = crop_like(self.classifier(maps["context"]), images)
        return maps

    def norm_before(self, feature: str) -> nn.BatchNorm2d:
        return self.encoder.norm_before(feature)


def deconv(channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, channels, 2, stride=2, bias=False)


def crop_like(x: Tensor, reference: Tensor) -> Tensor:
    """Drop the row or column by which a doubled map exceeds one of odd size (sides not divisible by 8)."""
    if torch.compiler.is_exporting():  # a slice would be wrong for sides of the other parity than the example's
        for axis in (2, 3):
            x = x.index_select(axis, torch.arange(reference.shape[axis]))
        return x
    return x[:, :, : reference.shape[2], : reference.shape[3]]
