"""Backbones by name; each turns images into the maps ``layer1`` ... ``layer4``.

``resnet18`` is what torchvision, timm and everybody else calls so (7x7 stem); ``resnet18_v1s`` has the stem of three
3x3 convolutions, as GluonCV, CIRKD and DIST call it and as SKD, CWD and IFVD use it.
"""

from functools import partial

from segdistill.network.backbone.resnet import BasicBlock, Bottleneck, ResNet

DEPTHS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
BACKBONES = {name: partial(ResNet, *blocks, stem="plain") for name, blocks in DEPTHS.items()}
BACKBONES |= {f"{name}_v1s": partial(ResNet, *blocks, stem="deep") for name, blocks in DEPTHS.items()}
