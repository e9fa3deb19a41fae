"""Backbones trained on ImageNet, with a classifier that is not used."""

from collections.abc import Mapping

from torch import Tensor

from segdistill.dataset.normalization import CAFFE, IMAGENET
from segdistill.utils.weights.base import Weights


def claims(state_dict: Mapping[str, Tensor]) -> bool:
    """A ResNet at the top level: of torchvision (7x7 stem) or of the resnet18-imagenet.pth family (three 3x3)."""
    bare = not any(key.startswith(("pspmodule.", "head.", "dsn.")) for key in state_dict)
    return bare and "layer4.0.conv1.weight" in state_dict


def read(state_dict: Mapping[str, Tensor]) -> Weights:
    skipped = [key for key in state_dict if key.startswith("fc.")]
    renamed = {f"backbone.{key}": value for key, value in state_dict.items() if key not in skipped}
    normalization = CAFFE if "conv3.weight" in state_dict else IMAGENET
    return Weights("imagenet", renamed, {}, normalization, skipped=skipped)
