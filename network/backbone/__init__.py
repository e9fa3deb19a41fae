"""Backbones by name; each turns images into the maps ``layer1`` ... ``layer4``.

``resnet18`` is torchvision's and timm's (7x7 stem); ``resnet18_v1s`` has the stem of three
3x3 convolutions, as GluonCV, CIRKD and DIST call it and as SKD, CWD and IFVD use it.
"""

import inspect

from segdistill.network.backbone.base import Backbone
from segdistill.network.backbone.mit import MiT
from segdistill.network.backbone.mobilenetv2 import MobileNetV2
from segdistill.network.backbone.mobilenetv3 import MobileNetV3
from segdistill.network.backbone.resnet import BasicBlock, Bottleneck, ResNet
from segdistill.network.backbone.xception import Xception

DEPTHS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
WIDE = (64, 128, 320, 512)
TRANSFORMERS = {
    "mit_b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": (WIDE, (2, 2, 2, 2)),
    "mit_b2": (WIDE, (3, 4, 6, 3)),
    "mit_b3": (WIDE, (3, 4, 18, 3)),
    "mit_b4": (WIDE, (3, 8, 27, 3)),
    "mit_b5": (WIDE, (3, 6, 40, 3)),
}
# The class, its shape and what else makes the variant.
BACKBONES: dict[str, tuple[type[Backbone], tuple, dict]] = {
    **{name: (ResNet, blocks, {"stem": "plain"}) for name, blocks in DEPTHS.items()},
    **{f"{name}_v1s": (ResNet, blocks, {"stem": "deep"}) for name, blocks in DEPTHS.items()},
    **{name: (MiT, shape, {}) for name, shape in TRANSFORMERS.items()},
    "mobilenetv2": (MobileNetV2, (), {}),
    "mobilenetv3_small": (MobileNetV3, ("small",), {}),
    "mobilenetv3_large": (MobileNetV3, ("large",), {}),
    "xception": (Xception, (), {}),
}

__all__ = ["BACKBONES", "Backbone", "build_backbone"]


def build_backbone(name: str, *, variant: str = "", **options) -> Backbone:
    """Build a backbone by name.

    Args:
        name: one of ``BACKBONES``.
        variant: the code base whose variant is built: "skd", "akd"; any other: the usual form.
        options: the backbone's own keywords; one that is None is left at the backbone's default.

    Raises:
        ValueError: an unknown name or option, or a value that the backbone refuses.
    """
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; known: {', '.join(sorted(BACKBONES))}")
    backbone, arguments, fixed = BACKBONES[name]
    options = {key: value for key, value in options.items() if value is not None}
    if unknown := sorted(options.keys() - inspect.signature(backbone).parameters.keys()):
        raise ValueError(f"{name} has no option {', '.join(unknown)}")
    return backbone(*arguments, **fixed, **{**backbone.VARIANTS.get(variant, {}), **options})
