"""DeepLabV3+ (Chen et al., ECCV 2018), as in AKD (Mansourian et al.) and the DeepLab of jfzhang95 before it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.libs import get_norm
from segdistill.network.base import Feature, resize
from segdistill.network.dilated import DilatedNetwork
from segdistill.network.head.aspp import ASPP

WIDTH = 256
LOW_WIDTH = 48


class DeepLabV3Plus(DilatedNetwork):
    """DeepLabV3+: DeepLabV3 under a decoder that reads layer1, logits at its stride.

    Features: the backbone's; ``aspp.pre``, the output of the ASPP, and
    ``context.pre``, that of the decoder's last 3x3 convolution, before their activations; ``context``, ``logits``.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet18",
        output_stride: int = 16,
        norm: str = "batch_norm",
        **settings,
    ):
        super().__init__(num_classes, "akd", backbone=backbone, output_stride=output_stride, norm=norm, **settings)
        make_norm = get_norm(norm)
        (low, low_stride), (deepest, stride) = (self.backbone.features[name] for name in ("layer1", "layer4"))
        self.aspp = ASPP(deepest, WIDTH, stride, norm)
        self.low = nn.Sequential(nn.Conv2d(low, LOW_WIDTH, 1, bias=False), make_norm(LOW_WIDTH, activation="relu"))
        self.fuse = nn.Sequential(
            nn.Conv2d(WIDTH + LOW_WIDTH, WIDTH, 3, padding=1, bias=False),
            make_norm(WIDTH, activation="relu"),
            nn.Dropout(0.5),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            make_norm(WIDTH),
        )
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Conv2d(WIDTH, num_classes, 1)
        self.features |= {
            "aspp.pre": Feature(WIDTH, stride),
            **dict.fromkeys(("context.pre", "context"), Feature(WIDTH, low_stride)),
            "logits": Feature(num_classes, low_stride),
        }

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        maps = self.backbone(images, wanted | {"layer1", "layer4"})
        if wanted & {"aspp.pre", "context.pre", "context", "logits"}:
            maps["aspp.pre"] = self.aspp.pre(maps["layer4"])
            low = self.low(maps["layer1"])
            pooled = resize(self.aspp.activate(maps["aspp.pre"]), low.shape[2:])
            maps["context.pre"] = self.fuse(torch.cat([pooled, low], dim=1))
            maps["context"] = self.dropout(F.relu(maps["context.pre"]))
            maps["logits"] = self.head(maps["context"])
        return maps

    def norm_before(self, feature: str) -> nn.BatchNorm2d:
        norms = {"aspp.pre": self.aspp.project[1], "context.pre": self.fuse[-1]}
        return norms[feature] if feature in norms else self.backbone.norm_before(feature)
