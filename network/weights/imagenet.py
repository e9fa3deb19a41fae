"""Backbones trained on ImageNet, with a classifier that is not used.

torchvision's ResNet, MobileNetV2 and MobileNetV3; ResNets with the three-convolution stem (resnet18-imagenet.pth and
its like); MobileNetV2 as CIRKD and AKD have it; the Mix Transformers of SegFormer; AKD's Xception.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from segdistill.dataset.normalization import CAFFE, IMAGENET
from segdistill.network.weights.akd import aligned_xception
from segdistill.network.weights.base import Weights, flat_mobilenetv2, rename
from segdistill.network.weights.cirkd import MIT

RESNET, XCEPTION = "layer4.0.conv1.weight", "block20.skip.weight"
FLAT_MOBILENETV2 = "features.1.conv.0.weight"
MOBILENETS = {FLAT_MOBILENETV2, "features.1.conv.0.0.weight", "features.1.block.0.0.weight"}
MIX_TRANSFORMER = "patch_embed1.proj.weight"
# The classifiers, and the 1x1 convolution before MobileNetV2's.
UNUSED = ("fc.", "classifier.", "head.", "last_linear.", "features.18.")
# A backbone's layers, and classifiers of whole images; another entry is of a segmentation network around it.
ENTRY = re.compile(
    r"((conv|bn|norm|layer|block|patch_embed)\d*|features)\..*"
    r"|(fc|last_linear|head|classifier)(\.\d)?\.(weight|bias)"
)


def claims(state_dict: Mapping[str, Tensor]) -> bool:
    is_backbone = bool({RESNET, XCEPTION, MIX_TRANSFORMER, *MOBILENETS} & state_dict.keys())
    return is_backbone and all(ENTRY.fullmatch(key) for key in state_dict)


def ours(key: str, state_dict: Mapping[str, Tensor]) -> str:
    """The name of an entry in our backbone."""
    if XCEPTION in state_dict:
        return aligned_xception(key)
    if MIX_TRANSFORMER in state_dict:
        return rename(key, MIT)
    if FLAT_MOBILENETV2 in state_dict:
        key = flat_mobilenetv2(key)
    return key.replace("features.", "blocks.", 1)


def read(state_dict: Mapping[str, Tensor]) -> Weights:
    skipped = [key for key in state_dict if key.startswith(UNUSED)]
    if heads := [key for key in skipped if state_dict[key].ndim == 4 and not key.startswith("features.")]:
        raise ValueError(f"it is a segmentation network of a code base not known here: {heads[0]} is a convolution")
    renamed = {f"backbone.{ours(key, state_dict)}": value for key, value in state_dict.items() if key not in skipped}
    return Weights("imagenet", renamed, {}, CAFFE if "conv3.weight" in state_dict else IMAGENET, skipped=skipped)
