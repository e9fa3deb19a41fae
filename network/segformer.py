"""SegFormer (Xie et al., NeurIPS 2021), as in CIRKD."""

import torch
from torch import Tensor, nn

from segdistill.libs import get_norm
from segdistill.network.backbone import build_backbone
from segdistill.network.base import Feature, SegmentationNetwork, resize


class SegFormer(SegmentationNetwork):
    """SegFormer: the four layers of a Mix Transformer, merged at the stride of layer1.

    Features: the backbone's, ``context`` and ``logits``.

    Args:
        num_classes: channels of the logits.
        backbone: mit_b0 to mit_b5.
        width: channels that each layer is brought to, and of ``context``; None: 256 (mit_b0, mit_b1) or 768.
        drop_path: share of the samples that skip the last block in training; it rises linearly from the first.
        dropout: share of the channels of ``context`` that the classifier does not see in training; the authors' is 0.1.
        norm: name of a normalisation factory in ``libs``; of the head, for the backbone has LayerNorm.
        checkpoint_blocks: recompute the backbone's blocks in the backward pass instead of keeping their maps.
    """

    MIN_SIDE = 29  # at stride 4, the first layer's attention reads its keys from 8 x 8 tokens

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "mit_b0",
        width: int | None = None,
        drop_path: float = 0.1,
        dropout: float = 0.0,
        norm: str = "batch_norm",
        checkpoint_blocks: bool = False,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = build_backbone(backbone, drop_path=drop_path, checkpoint_blocks=checkpoint_blocks)
        width = width or (256 if backbone in ("mit_b0", "mit_b1") else 768)
        layers = [self.backbone.features[f"layer{number}"] for number in (1, 2, 3, 4)]
        self.embed = nn.ModuleList(nn.Conv2d(layer.channels, width, 1) for layer in layers)
        self.fuse = nn.Sequential(nn.Conv2d(4 * width, width, 1), get_norm(norm)(width, activation="relu"))
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()
        self.head = nn.Conv2d(width, num_classes, 1)
        self.features = {
            **self.backbone.features,
            "context": Feature(width, layers[0].stride),
            "logits": Feature(num_classes, layers[0].stride),
        }

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        maps = self.backbone(images, wanted)
        if wanted & {"context", "logits"}:
            size = maps["layer1"].shape[2:]
            embedded = [
                resize(embed(maps[f"layer{number}"]), size, align_corners=False)
                for number, embed in enumerate(self.embed, 1)
            ]
            maps["context"] = self.fuse(torch.cat(embedded[::-1], dim=1))
            maps["logits"] = self.head(self.dropout(maps["context"]))
        return maps
