"""PSPNet (Zhao et al., CVPR 2017), as in SKD, CWD and IFVD: output stride 8, widths 128 (resnet18) and 512."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.libs import get_norm
from segdistill.network.backbone import BACKBONES
from segdistill.network.features import check_features
from segdistill.network.output import SegmentationOutput


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
        pooled = [
            F.interpolate(stage(x), size=x.shape[2:], mode="bilinear", align_corners=True) for stage in self.stages
        ]
        return self.bottleneck(torch.cat([*pooled, x], dim=1))


class PSPNet(nn.Module):
    """Features: ``layer1`` ... ``layer4`` and ``context`` (the output of the pyramid pooling).

    Args:
        num_classes: channels of the logits.
        backbone: a name in ``BACKBONES``.
        norm, activation, checkpoint_blocks: see ``segdistill.network.backbone.resnet.ResNet``.
    """

    takes_backbone = True

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet18",
        norm: str = "batch_norm",
        activation: str = "relu",
        checkpoint_blocks: bool = False,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = BACKBONES[backbone](norm=norm, activation=activation, checkpoint_blocks=checkpoint_blocks)
        deep, deepest = self.backbone.channels["layer3"], self.backbone.channels["layer4"]
        width = 128 if deepest == 512 else 512
        self.pspmodule = PyramidPooling(deepest, width, norm)
        self.head = nn.Conv2d(width, num_classes, 1)
        self.dsn = nn.Sequential(
            nn.Conv2d(deep, width, 3, padding=1),
            get_norm(norm)(width, activation="leaky_relu"),
            nn.Dropout2d(0.1),
            nn.Conv2d(width, num_classes, 1),
        )
        self.feature_channels = {**self.backbone.channels, "context": width}

    def forward(self, images: Tensor, features: tuple[str, ...] = (), aux: bool = True) -> SegmentationOutput:
        """Logits and, if ``aux``, the deep-supervision logits, both (N, C, h, w) at stride 8."""
        check_features("pspnet", features, self.feature_channels)
        maps = self.backbone(images, keep={"layer3", "layer4", *features})
        maps["context"] = self.pspmodule(maps["layer4"])
        return SegmentationOutput(
            logits=self.head(maps["context"]),
            aux_logits=self.dsn(maps["layer3"]) if aux else None,
            features={name: maps[name] for name in features},
        )
