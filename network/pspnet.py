"""PSPNet (Zhao et al., CVPR 2017), as in SKD, CWD and IFVD or as in CIRKD and DIST."""

from torch import Tensor, nn

from segdistill.network.backbone import build_backbone
from segdistill.network.base import Feature, SegmentationNetwork
from segdistill.network.head.fcn import fcn_head
from segdistill.network.head.pyramid_pooling import PyramidPooling


class PSPNet(SegmentationNetwork):
    """Features: the backbone's, ``context`` (the output of the pyramid pooling), ``logits`` and ``aux_logits``.

    Args:
        num_classes: channels of the logits.
        backbone: a name of ``segdistill.network.backbone``.
        family: "skd" (pooled maps as wide as the context, leaky ReLU in the heads, dilation from a layer's first
            convolution on) or "cirkd" (pooled maps of a quarter of layer4, ReLU, dilation after that convolution).
        width: channels of ``context``; None: 128, or under 2048 channels 512 (skd) and 256 (cirkd; DIST: 512).
        aux: whether there is a head on layer3 for deep supervision.
        output_stride: of the backbone, 8, 16 or 32.
        norm: name of a normalisation factory in ``libs``.
        activation: of a ResNet: relu as in the originals, or leaky_relu, which can be fused in place.
        checkpoint_blocks: recompute the backbone's blocks in the backward pass instead of keeping their maps.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet18_v1s",
        family: str = "skd",
        width: int | None = None,
        aux: bool = True,
        output_stride: int = 8,
        norm: str = "batch_norm",
        activation: str | None = None,
        checkpoint_blocks: bool = False,
    ):
        super().__init__()
        if family not in ("skd", "cirkd"):
            raise ValueError(f"unknown pspnet family {family!r}; known: cirkd, skd")
        skd = family == "skd"
        self.num_classes = num_classes
        self.backbone = build_backbone(
            backbone,
            family=family,
            norm=norm,
            activation=activation,
            output_stride=output_stride,
            checkpoint_blocks=checkpoint_blocks,
        )
        (deep, aux_stride), (deepest, stride) = (self.backbone.features[name] for name in ("layer3", "layer4"))
        width = width or (128 if deepest < 2048 else 512 if skd else 256)
        self.pspmodule = PyramidPooling(deepest, width if skd else deepest // 4, width, norm, skd=skd)
        self.head = nn.Conv2d(width, num_classes, 1)
        self.features = {
            **self.backbone.features,
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

    def norm_before(self, feature: str) -> nn.BatchNorm2d:
        return self.backbone.norm_before(feature)
