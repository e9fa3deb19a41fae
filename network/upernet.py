"""UPerNet (Xiao et al., ECCV 2018), as in CIRKD."""

from functools import partial

import torch
from torch import Tensor, nn

from segdistill.libs import get_norm
from segdistill.network.base import Feature, resize
from segdistill.network.dilated import DilatedNetwork
from segdistill.network.head.fcn import fcn_head
from segdistill.network.head.pyramid_pooling import PyramidPooling

bilinear = partial(resize, align_corners=False)


class ResizedPyramidPooling(PyramidPooling):
    """Pyramid pooling that resizes the averages to full size before the convolution."""

    def pool(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        average, *rest = stage
        x = bilinear(average(x), x.shape[2:])
        for layer in rest:
            x = layer(x)
        return x


class UPerNet(DilatedNetwork):
    """UPerNet: a feature pyramid over the four layers, merged at twice the stride of layer1.

    Features: the backbone's, ``context``, ``logits`` and ``aux_logits``.

    Args:
        width: channels of the pyramid and of ``context``: 128 is CIRKD's upernet_lite, 512 its upernet.
        aux: whether there is a head on layer3 for deep supervision.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        width: int = 128,
        aux: bool = True,
        norm: str = "batch_norm",
        **settings,
    ):
        super().__init__(num_classes, norm=norm, **settings)
        make_norm = partial(get_norm(norm), activation="relu")
        layers = [self.backbone.features[f"layer{number}"] for number in (1, 2, 3, 4)]

        def conv_norm(in_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
            conv = nn.Conv2d(in_channels, width, kernel, stride, padding=kernel // 2, bias=False)
            return nn.Sequential(conv, make_norm(width))

        self.pspmodule = ResizedPyramidPooling(layers[-1].channels, 512, width, norm)
        self.lateral = nn.ModuleList(conv_norm(layer.channels, 1) for layer in layers[:-1])
        self.smooth = nn.ModuleList(conv_norm(width, 3) for _ in layers[:-1])
        self.fuse = conv_norm(len(layers) * width, 3, stride=2)
        self.head = nn.Conv2d(width, num_classes, 1)
        stride = 2 * layers[0].stride
        self.features |= {
            "context": Feature(width, stride),
            "logits": Feature(num_classes, stride),
        }
        if aux:
            self.dsn = fcn_head(layers[2].channels, layers[2].channels // 4, num_classes, norm)
            self.features["aux_logits"] = Feature(num_classes, layers[2].stride)

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        layers = ("layer1", "layer2", "layer3", "layer4")
        maps = self.backbone(images, wanted.union(layers))
        if "aux_logits" in wanted:
            maps["aux_logits"] = self.dsn(maps["layer3"])
        if wanted & {"context", "logits"}:
            top = self.pspmodule(maps["layer4"])
            pyramid = [top]
            for name, lateral, smooth in zip(layers[2::-1], self.lateral[::-1], self.smooth[::-1], strict=True):
                side = lateral(maps[name])
                top = side + bilinear(top, side.shape[2:])
                pyramid.insert(0, smooth(top))
            size = pyramid[0].shape[2:]
            maps["context"] = self.fuse(torch.cat([bilinear(level, size) for level in pyramid], dim=1))
            maps["logits"] = self.head(maps["context"])
        return maps
