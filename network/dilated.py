"""Base class of networks on a dilated backbone: shared options, features and BatchNorm lookup."""

from torch import nn

from segdistill.network.backbone import build_backbone
from segdistill.network.base import SegmentationNetwork


class DilatedNetwork(SegmentationNetwork):
    """A network around a backbone whose later strides are dilation; a subclass adds its head and features.

    Args:
        num_classes: channels of the logits.
        variant: the code base whose form of the backbone it is, as in ``build_backbone``.
        backbone: a name of ``segdistill.network.backbone``.
        output_stride: of the backbone, 8, 16 or 32.
        norm: name of a normalisation factory in ``libs``.
        activation: of a ResNet: relu as in the originals, or leaky_relu, which can be fused in place.
        checkpoint_blocks: recompute the backbone's blocks in the backward pass instead of keeping their maps.
    """

    def __init__(
        self,
        num_classes: int,
        variant: str = "",
        *,
        backbone: str = "resnet18_v1s",
        output_stride: int = 8,
        norm: str = "batch_norm",
        activation: str | None = None,
        checkpoint_blocks: bool = False,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = build_backbone(
            backbone,
            variant=variant,
            norm=norm,
            activation=activation,
            output_stride=output_stride,
            checkpoint_blocks=checkpoint_blocks,
        )
        self.features = dict(self.backbone.features)

    def norm_before(self, feature: str) -> nn.BatchNorm2d:
        return self.backbone.norm_before(feature)
