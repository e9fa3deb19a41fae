"""PSPNet (Zhao et al., CVPR 2017), as in SKD, CWD and IFVD: output stride 8, widths 128 (resnet18_v1s) and 512."""

import torch
from torch import Tensor, nn

from segdistill.libs import get_norm
from segdistill.network.backbone import BACKBONES
from segdistill.network.base import Feature, SegmentationNetwork, resize


class PyramidPooling(nn.Module):
    """Averages over 1x1, 2x2, 3x3 and 6x6 bins, each brought back to full size, beside the map itself, then merged."""

    def __init__(self, in_channels: int, channels: int, norm: str, bins: tuple[int, ...] = (1, 2, 3, 6)):
        super().__init__()
        make_norm = get_norm(norm)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(bin_size),
                nn.Conv2d(in_channels, channels, 1, bias=False),
                make_norm(channels, activation="leaky_relu"),
            )
            for bin_size in bins
        )
        self.bottleneck = nn.Sequential(
            nn.Conv2d(in_channels + len(bins) * channels, channels, 3, padding=1, bias=False),
            make_norm(channels, activation="leaky_relu"),
            nn.Dropout2d(0.1),
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled = [resize(stage(x), x.shape[2:]) for stage in self.stages]
        return self.bottleneck(torch.cat([*pooled, x], dim=1))


class PSPNet(SegmentationNetwork):
    """Features: the backbone's, ``context`` (the output of the pyramid pooling), ``logits`` and ``aux_logits``.

    Args:
        num_classes: channels of the logits.
        backbone: resnet18_v1s, resnet50_v1s or resnet101_v1s.
        norm: name of a normalisation factory in ``libs``.
        activation: of the backbone: relu as in the originals, or leaky_relu, which can be fused in place.
        checkpoint_blocks: recompute the backbone's blocks in the backward pass instead of keeping their maps.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet18_v1s",
        norm: str = "batch_norm",
        activation: str = "relu",
        checkpoint_blocks: bool = False,
    ):
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"pspnet has no backbone {backbone!r}; known: {', '.join(sorted(BACKBONES))}")
        self.num_classes = num_classes
        self.backbone = BACKBONES[backbone](norm=norm, activation=activation, checkpoint_blocks=checkpoint_blocks)
        deep, deepest = (self.backbone.features[name].channels for name in ("layer3", "layer4"))
        width = 128 if deepest == 512 else 512
        self.pspmodule = PyramidPooling(deepest, width, norm)
        self.head = nn.Conv2d(width, num_classes, 1)
        self.dsn = nn.Sequential(
            nn.Conv2d(deep, width, 3, padding=1),
            get_norm(norm)(width, activation="leaky_relu"),
            nn.Dropout2d(0.1),
            nn.Conv2d(width, num_classes, 1),
        )
        self.features = {
            **self.backbone.features,
            "context": Feature(width, 8),
            "logits": Feature(num_classes, 8),
            "aux_logits": Feature(num_classes, 8),
        }

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        maps = self.backbone(images, wanted | {"layer3", "layer4"})
        if "aux_logits" in wanted:
            maps["aux_logits"] = self.dsn(maps["layer3"])
        if wanted & {"context", "logits"}:
            maps["context"] = self.pspmodule(maps["layer4"])
            maps["logits"] = self.head(maps["context"])
        return maps

    def norm_before(self, feature: str) -> nn.BatchNorm2d:
        return self.backbone.norm_before(feature)
