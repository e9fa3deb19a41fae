"""ESPNet and ESPNet-C: the authors' releases, in which void is a class, and SKD's (branch cvpr_19), in which it is not.

The authors' have 20 (Cityscapes) or 12 (CamVid) classes; SKD's 19 or 11, and ESPNet's encoder without a prefix.
"""

from collections.abc import Mapping

from torch import Tensor

from segdistill.dataset.normalization import Normalization
from segdistill.network.weights.base import Weights, count_blocks

# BGR. The authors divide by 255 after standardising; SKD does not.
ESPNET_CITYSCAPES = Normalization(
    "BGR",
    (72.3923110961914, 82.908935546875, 73.15840148925781),
    (45.31922149658203, 46.15289306640625, 44.914833068847656),
    1 / 255,
)
ESPNET_CAMVID = Normalization(
    "BGR",
    (110.3310546875, 108.40888977050781, 105.03321838378906),
    (72.12568664550781, 72.69076538085938, 69.90434265136719),
    1 / 255,
)
SKD_ESPNET = Normalization("BGR", (73.18188461, 82.93553322, 72.41519599), (45.3199, 46.1528, 44.9148))


def claims(state_dict: Mapping[str, Tensor]) -> bool:
    return bool({"encoder.level1.conv.weight", "level1.conv.weight"} & state_dict.keys())


def read(state_dict: Mapping[str, Tensor]) -> Weights:
    decoder = "conv.conv.weight" in state_dict
    if "classifier_1.conv.weight" in state_dict:
        flat = ("br.", "conv.", "classifier.", "up_l", "level3_C.", "combine_l2_l3.")
        state_dict = {
            key if key.startswith(flat) else f"encoder.{key.replace('classifier_1', 'classifier')}": value
            for key, value in state_dict.items()
        }
    prefix = "encoder." if decoder else ""
    num_classes = len(state_dict[f"{prefix}classifier.conv.weight"])
    config = {
        "name": "espnet" if decoder else "espnet_c",
        "num_classes": num_classes,
        "p": count_blocks(state_dict, f"{prefix}level2"),
        "q": count_blocks(state_dict, f"{prefix}level3"),
    }
    if decoder:
        channels = state_dict["conv.conv.weight"].shape[1] - num_classes
        config["skip"] = {19: "fused", 16: "stem"}.get(channels, f"of {channels} channels")
    if num_classes == 12:
        return Weights("espnet", dict(state_dict), config, ESPNET_CAMVID, counts_void=True)
    if num_classes == 20:
        # They were trained on images of half their height and width.
        shown = {"input_size": (512, 1024), "counts_void": True}
        return Weights("espnet", dict(state_dict), config, ESPNET_CITYSCAPES, **shown)
    return Weights("skd_espnet", dict(state_dict), config, SKD_ESPNET)
