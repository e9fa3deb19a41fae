"""DeepLabV3 (Chen et al., 2017, arXiv:1706.05587), as in CIRKD and DIST."""

import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.libs import get_norm
from segdistill.network.base import Feature
from segdistill.network.dilated import DilatedNetwork
from segdistill.network.head.aspp import ASPP
from segdistill.network.head.fcn import fcn_head


class DeepLabV3(DilatedNetwork):
    """DeepLabV3: atrous spatial pyramid pooling on the last layer, logits at its stride.

    Features: the backbone's; ``aspp.pre``, the output of the ASPP, and ``context.pre``, that of the convolution
    after it, before their activations; ``context``, ``logits`` and ``aux_logits``.

    Args:
        width: channels of the ASPP and of ``context``; None: 128, or 256 under 2048 channels, as in DIST and CIRKD's
            paper. CIRKD's later code has 512 for every ResNet.
        aux: whether there is a head on layer3 for deep supervision.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        width: int | None = None,
        aux: bool = True,
        norm: str = "batch_norm",
        **settings,
    ):
        super().__init__(num_classes, norm=norm, **settings)
        (deep, aux_stride), (deepest, stride) = (self.backbone.features[name] for name in ("layer3", "layer4"))
        width = width or (128 if deepest < 2048 else 256)
        self.aspp = ASPP(deepest, width, stride, norm)
        self.fuse = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), get_norm(norm)(width))
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Conv2d(width, num_classes, 1)
        self.features |= {
            **dict.fromkeys(("aspp.pre", "context.pre", "context"), Feature(width, stride)),
            "logits": Feature(num_classes, stride),
        }
        if aux:
            self.dsn = fcn_head(deep, deep // 4, num_classes, norm)
            self.features["aux_logits"] = Feature(num_classes, aux_stride)

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        maps = self.backbone(images, wanted | {"layer3", "layer4"})
        if "aux_logits" in wanted:
            maps["aux_logits"] = self.dsn(maps["layer3"])
        if wanted & {"aspp.pre", "context.pre", "context", "logits"}:
            maps["aspp.pre"] = self.aspp.pre(maps["layer4"])
            maps["context.pre"] = self.fuse(self.aspp.activate(maps["aspp.pre"]))
            maps["context"] = self.dropout(F.relu(maps["context.pre"]))
            maps["logits"] = self.head(maps["context"])
        return maps

    def norm_before(self, feature: str) -> nn.BatchNorm2d:
        norms = {"aspp.pre": self.aspp.project[1], "context.pre": self.fuse[1]}
        return norms[feature] if feature in norms else self.backbone.norm_before(feature)
