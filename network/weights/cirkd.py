"""DeepLabV3, PSPNet, UPerNet and SegFormer of CIRKD and DIST, which share their key names.

Colours: BGR, 0..255, mean subtracted, whatever the backbone was trained with.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from segdistill.dataset.normalization import CAFFE
from segdistill.network.weights.base import Weights, flat_mobilenetv2, name_of_mit, name_of_resnet, rename

# Our classifier is ``head`` and our deep supervision ``dsn``; activations have no entries.
COMMON = {
    r"^auxlayer\.block\.([01])\.": r"dsn.\1.",
    r"^auxlayer\.block\.4\.": "dsn.3.",
}
DEEPLABV3 = {
    r"^head\.aspp\.b0\.": "aspp.branches.0.",
    r"^head\.aspp\.b(\d)\.block\.": r"aspp.branches.\1.",
    r"^head\.aspp\.b4\.gap\.": "aspp.pool.",
    r"^head\.aspp\.project\.": "aspp.project.",
    r"^head\.block\.4\.": "head.",
    r"^head\.block\.": "fuse.",
}
PSPNET = {
    r"^head\.block\.": "pspmodule.bottleneck.",
    r"^head\.classifier\.": "head.",
    **{rf"^head\.psp\.conv{i}\.0\.": f"pspmodule.stages.{i - 1}.1." for i in (1, 2, 3, 4)},
    **{rf"^head\.psp\.conv{i}\.1\.": f"pspmodule.stages.{i - 1}.2." for i in (1, 2, 3, 4)},
}
UPERNET = {
    r"^head\.ppm_conv\.(\d)\.0\.": r"pspmodule.stages.\1.1.",
    r"^head\.ppm_conv\.(\d)\.1\.": r"pspmodule.stages.\1.2.",
    r"^head\.ppm_last_conv\.": "pspmodule.bottleneck.",
    r"^head\.fpn_in\.": "lateral.",
    r"^head\.fpn_out\.(\d)\.0\.": r"smooth.\1.",
    r"^head\.conv_last\.0\.": "fuse.",
    r"^head\.conv_last\.1\.": "head.",
}
MIT = {r"\.dwconv\.dwconv\.": ".dwconv."}
SEGFORMER = {
    **MIT,
    r"^(patch_embed|block|norm)(\d)": r"backbone.\1\2",
    **{rf"^linear_c{i}\.proj\.": f"embed.{i - 1}." for i in (1, 2, 3, 4)},
    r"^linear_fuse\.": "fuse.",
    r"^linear_pred\.": "head.",
}


def claims(state_dict: Mapping[str, Tensor]) -> bool:
    return "linear_pred.weight" in state_dict or any(key.startswith("pretrained.") for key in state_dict)


def read(state_dict: Mapping[str, Tensor]) -> Weights:
    if "linear_pred.weight" in state_dict:
        renamed = {rename(key, SEGFORMER): value for key, value in state_dict.items()}
        # Their linear layers are our 1x1 convolutions.
        embed = {
            key: value[:, :, None, None]
            for key, value in renamed.items()
            if key.startswith("embed.") and value.ndim == 2
        }
        config = {"name": "segformer", "num_classes": len(renamed["head.weight"]), "backbone": name_of_mit(state_dict)}
        config["width"] = len(renamed["fuse.0.weight"])
        return Weights("cirkd", renamed | embed, config, CAFFE)

    mobile = "pretrained.net.features.0.0.weight" in state_dict
    if "head.aspp.project.0.weight" in state_dict:
        name, rules = "deeplabv3", DEEPLABV3
    elif "head.psp.conv1.0.weight" in state_dict:
        name, rules = "pspnet", PSPNET
    else:
        name, rules = "upernet", UPERNET
    renamed = {}
    for key, value in state_dict.items():
        if key.startswith("pretrained.net."):
            key = flat_mobilenetv2(key.removeprefix("pretrained.net.")).replace("features", "backbone.blocks", 1)
        elif key.startswith("pretrained."):
            key = f"backbone.{key.removeprefix('pretrained.')}"
        renamed[rename(key, COMMON | rules)] = value
    config = {
        "name": name,
        "num_classes": len(renamed["head.weight"]),
        "backbone": "mobilenetv2" if mobile else name_of_resnet(state_dict, "pretrained."),
        "width": renamed["head.weight"].shape[1],
        "aux": "dsn.0.weight" in renamed,
    }
    if name == "pspnet":
        config["variant"] = "cirkd"
    if name != "deeplabv3":
        renamed["pspmodule.bottleneck.0.weight"] = map_last(
            renamed["pspmodule.bottleneck.0.weight"], len(renamed["pspmodule.stages.0.1.weight"])
        )
    return Weights("cirkd", renamed, config, CAFFE)


def map_last(weight: Tensor, pooled: int) -> Tensor:
    """The weight of the convolution after the pyramid pooling: there the map comes before the four pooled ones."""
    unpooled = weight.shape[1] - 4 * pooled
    return torch.cat([weight[:, unpooled:], weight[:, :unpooled]], dim=1)
