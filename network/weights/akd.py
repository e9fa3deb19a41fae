"""DeepLabV3+ of AKD and AICSD, and of the DeepLab of jfzhang95 before them. Colours: RGB, ImageNet's mean and std.

The files do not contain the output stride; it is 16.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from segdistill.dataset.normalization import IMAGENET
from segdistill.network.weights.base import Weights, flat_mobilenetv2, name_of_resnet, rename

HEAD = {
    **{rf"^aspp\.aspp{i}\.atrous_conv\.": f"aspp.branches.{i - 1}.0." for i in (1, 2, 3, 4)},
    **{rf"^aspp\.aspp{i}\.bn\.": f"aspp.branches.{i - 1}.1." for i in (1, 2, 3, 4)},
    r"^aspp\.global_avg_pool\.": "aspp.pool.",
    r"^aspp\.conv1\.": "aspp.project.0.",
    r"^aspp\.bn1\.": "aspp.project.1.",
    r"^decoder\.conv1\.": "low.0.",
    r"^decoder\.bn1\.": "low.1.",
    # Activations are no entries of ours.
    r"^decoder\.last_conv\.([01])\.": r"fuse.\1.",
    r"^decoder\.last_conv\.4\.": "fuse.3.",
    r"^decoder\.last_conv\.5\.": "fuse.4.",
    r"^decoder\.last_conv\.8\.": "head.",
}


def claims(state_dict: Mapping[str, Tensor]) -> bool:
    return "decoder.last_conv.0.weight" in state_dict


def read(state_dict: Mapping[str, Tensor]) -> Weights:
    if "backbone.features.0.0.weight" in state_dict:
        backbone, rename_backbone = "mobilenetv2", lambda key: flat_mobilenetv2(key).replace("features", "blocks", 1)
    elif "backbone.block20.skip.weight" in state_dict:
        backbone, rename_backbone = "xception", aligned_xception
    else:
        backbone, rename_backbone = name_of_resnet(state_dict, "backbone."), str
    # MobileNetV2 holds its layers a second time under these names.
    skipped = [key for key in state_dict if re.match(r"backbone\.(low|high)_level_features\.", key)]
    renamed = {}
    for key, value in state_dict.items():
        if key in skipped:
            continue
        if key.startswith("backbone."):
            renamed[f"backbone.{rename_backbone(key.removeprefix('backbone.'))}"] = value
        else:
            renamed[rename(key, HEAD)] = value
    config = {"name": "deeplabv3plus", "num_classes": len(renamed["head.weight"]), "backbone": backbone}
    return Weights("akd", renamed, config, IMAGENET, skipped=skipped)


def aligned_xception(key: str) -> str:
    """A key of their Xception in our form. They count a block's activations: it begins with one from the third on."""
    parts = {"conv1": 0, "bn": 1, "pointwise": 2}
    if match := re.fullmatch(r"block(\d+)\.rep\.(\d+)\.(?:(conv1|bn|pointwise)\.)?(\w+)", key):
        block, layer, part, entry = int(match[1]) - 1, int(match[2]) // 3, parts.get(match[3], 3), match[4]
        return f"blocks.{block}.residual.{layer}.{part}.{entry}"
    if match := re.fullmatch(r"block(\d+)\.skip(bn)?\.(\w+)", key):
        return f"blocks.{int(match[1]) - 1}.shortcut.{1 if match[2] else 0}.{match[3]}"
    if match := re.fullmatch(r"conv([345])\.(conv1|bn|pointwise)\.(\w+)", key):
        return f"exit.{int(match[1]) - 3}.{parts[match[2]]}.{match[3]}"
    return re.sub(r"^bn([345])\.", lambda match: f"exit.{int(match[1]) - 3}.3.", key)
