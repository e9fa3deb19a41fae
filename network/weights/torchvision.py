"""State dicts of torchvision's segmentation models: DeepLabV3, FCN and LR-ASPP; ImageNet's convention."""

from collections.abc import Mapping

from torch import Tensor

from segdistill.dataset.normalization import IMAGENET
from segdistill.network.weights.base import Weights, name_of_resnet

# A key that only one head has.
HEADS = {
    "deeplabv3": "classifier.0.convs.1.0.weight",
    "fcn": "classifier.1.running_mean",
    "lraspp": "classifier.high_classifier.weight",
}
BACKBONES = ("backbone.conv1.weight", "backbone.0.0.weight")


def claims(state_dict: Mapping[str, Tensor]) -> bool:
    return head_of(state_dict) is not None and any(key in state_dict for key in BACKBONES)


def head_of(state_dict: Mapping[str, Tensor]) -> str | None:
    last = {"classifier.4.weight", "classifier.high_classifier.weight"}
    found = [name for name, key in HEADS.items() if key in state_dict and last & state_dict.keys()]
    return found[0] if found else None


def read(state_dict: Mapping[str, Tensor]) -> Weights:
    head = head_of(state_dict)
    is_mobilenet = "backbone.0.0.weight" in state_dict
    backbone = "mobilenet_v3_large" if is_mobilenet else name_of_resnet(state_dict, "backbone.")
    last = "classifier.high_classifier.weight" if head == "lraspp" else "classifier.4.weight"
    config = {"name": f"torchvision:{head}_{backbone}", "num_classes": len(state_dict[last])}
    if head != "lraspp":
        config["aux_loss"] = "aux_classifier.4.weight" in state_dict
    return Weights("torchvision", dict(state_dict), config, IMAGENET)
