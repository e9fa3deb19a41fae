"""PSPNet of SKD, CWD and IFVD, which share their key names, and of the segmentation toolbox before them.

In the toolbox the head is Sequential(pyramid, classifier). Colours: BGR, 0..255, mean subtracted.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from segdistill.dataset.normalization import CAFFE
from segdistill.network.weights.base import Weights, name_of_resnet

TOOLBOX = {"head.0.": "pspmodule.", "head.1.": "head."}


def claims(state_dict: Mapping[str, Tensor]) -> bool:
    return "conv1.weight" in state_dict and bool(
        {"pspmodule.bottleneck.0.weight", "head.0.bottleneck.0.weight"} & state_dict.keys()
    )


def read(state_dict: Mapping[str, Tensor]) -> Weights:
    if "head.0.bottleneck.0.weight" in state_dict:
        state_dict = {TOOLBOX.get(key[:7], key[:7]) + key[7:]: value for key, value in state_dict.items()}
    skipped = [key for key in state_dict if key.startswith("fc.")]
    backbone = re.compile(r"(conv\d|bn\d|layer\d)\.")
    renamed = {
        f"backbone.{key}" if backbone.match(key) else key: value
        for key, value in state_dict.items()
        if key not in skipped
    }
    config = {"name": "pspnet", "num_classes": len(state_dict["head.weight"]), "backbone": name_of_resnet(state_dict)}
    return Weights("skd", plain_gamma(renamed), config, CAFFE, skipped=skipped)


def plain_gamma(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo the in-place layers' convention: they scale by |gamma| + 1e-5, BatchNorm2d by gamma.

    A file without BatchNorm counters comes from those layers; a negative gamma in it proves that the sign is unused.
    """
    norms = [key[: -len("running_var")] + "weight" for key in state_dict if key.endswith("running_var")]
    counted = any(key.endswith("num_batches_tracked") for key in state_dict)
    if counted or all((state_dict[key] >= 0).all() for key in norms):
        return state_dict
    return {key: value.abs() + 1e-5 if key in norms else value for key, value in state_dict.items()}
