"""PSPNet (Zhao et al., CVPR 2017), as in SKD, CWD and IFVD or as in CIRKD and DIST."""

from torch import Tensor, nn

from segdistill.network.base import Feature
from segdistill.network.dilated import DilatedNetwork
from segdistill.network.head.fcn import fcn_head
from segdistill.network.head.pyramid_pooling import PyramidPooling


class PSPNet(DilatedNetwork):
    """PSPNet: pyramid pooling on the last layer, logits at its stride.

    Features: the backbone's, ``context`` (the output of the pyramid pooling), ``logits`` and ``aux_logits``.

    Args:
        variant: "skd" (pooled maps as wide as the context, leaky ReLU in the heads, dilation from a layer's first
            convolution on) or "cirkd" (pooled maps of a quarter of layer4, ReLU, dilation after that convolution).
        width: channels of ``context``; None: 128, or under 2048 channels 512 (skd) and 256 (cirkd; DIST: 512).
        aux: whether there is a head on layer3 for deep supervision.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        variant: str = "skd",
        width: int | None = None,
        aux: bool = True,
        norm: str = "batch_norm",
        **settings,
    ):
        if variant not in ("skd", "cirkd"):
            raise ValueError(f"unknown pspnet variant {variant!r}; known: cirkd, skd")
        super().__init__(num_classes, variant, norm=norm, **settings)
        skd = variant == "skd"
        (deep, aux_stride), (deepest, stride) = (self.backbone.features[name] for name in ("layer3", "layer4"))
        width = width or (128 if deepest < 2048 else 512 if skd else 256)
        self.pspmodule = PyramidPooling(deepest, width if skd else deepest // 4, width, norm, skd=skd)
        self.head = nn.Conv2d(width, num_classes, 1)
        self.features |= {
            "context": Feature(width, stride),
            "logits": Feature(num_classes, stride),
        }
        if aux:
            self.dsn = fcn_head(deep, width if skd else deep // 4, num_classes, norm, skd=skd)
            self.features["aux_logits"] = Feature(num_classes, aux_stride)

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        maps = self.backbone(images, wanted | {"layer3", "layer4"})
        if "aux_logits" in wanted:
            maps["aux_logits"] = self.dsn(maps["layer3"])
        if wanted & {"context", "logits"}:
            maps["context"] = self.pspmodule(maps["layer4"])
            maps["logits"] = self.head(maps["context"])
        return maps
