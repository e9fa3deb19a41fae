"""DeepLabV3+ (Chen et al., ECCV 2018), as in AKD (Mansourian et al.) and the DeepLab of jfzhang95 before it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.libs import get_norm
from segdistill.network.backbone import build_backbone
from segdistill.network.base import Feature, SegmentationNetwork, resize
from segdistill.network.head.aspp import ASPP

WIDTH = 256
LOW_WIDTH = 48


class DeepLabV3Plus(SegmentationNetwork):
    """Logits at the stride of layer1. Features: the backbone's; ``aspp.pre``, the output of the ASPP, and
    ``context.pre``, that of the decoder's last 3x3 convolution, before their activations; ``context``, ``logits``.

    Args:
        num_classes: channels of the logits.
        backbone: a name of ``segdistill.network.backbone``.
        output_stride: of the backbone, 8, 16 or 32.
        norm: name of a normalisation factory in ``libs``.
        activation: of a ResNet: relu as in the originals, or leaky_relu, which can be fused in place.
        checkpoint_blocks: recompute the backbone's blocks in the backward pass instead of keeping their maps.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet18",
        output_stride: int = 16,
        norm: str = "batch_norm",
        activation: str | None = None,
        checkpoint_blocks: bool = False,
    ):
        super().__init__()
        make_norm = get_norm(norm)
        self.num_classes = num_classes
        self.backbone = build_backbone(
            backbone,
            family="akd",
            norm=norm,
            activation=activation,
            output_stride=output_stride,
            checkpoint_blocks=checkpoint_blocks,
        )
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
        self.features = {
            **self.backbone.features,
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
