"""Backbones by name; each turns images into the maps ``layer1`` ... ``layer4``."""

from functools import partial

from segdistill.network.backbone.resnet import BasicBlock, Bottleneck, ResNet

BACKBONES = {
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "resnet101": partial(ResNet, Bottleneck, (3, 4, 23, 3)),
}
