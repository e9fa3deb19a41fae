"""The model zoo: ``build_network("pspnet", num_classes=19, backbone="resnet18_v1s")``."""

import inspect

from segdistill.network.base import Feature, SegmentationNetwork, SegmentationOutput, resize
from segdistill.network.deeplabv3 import DeepLabV3
from segdistill.network.deeplabv3plus import DeepLabV3Plus
from segdistill.network.espnet import ESPNet, ESPNetC
from segdistill.network.pspnet import PSPNet
from segdistill.network.segformer import SegFormer
from segdistill.network.upernet import UPerNet

NETWORKS: dict[str, type[SegmentationNetwork]] = {
    "deeplabv3": DeepLabV3,
    "deeplabv3plus": DeepLabV3Plus,
    "espnet": ESPNet,
    "espnet_c": ESPNetC,
    "pspnet": PSPNet,
    "segformer": SegFormer,
    "upernet": UPerNet,
}

__all__ = ["NETWORKS", "Feature", "SegmentationNetwork", "SegmentationOutput", "build_network", "resize"]


def build_network(name: str, num_classes: int, *, norm: str = "batch_norm", **options) -> SegmentationNetwork:
    """Build a network by name.

    Args:
        name: one of ``NETWORKS``.
        num_classes: channels of the logits.
        norm: normalisation factory of ``libs``; the state-dict keys do not depend on it.
        options: the network's own keywords, such as ``backbone`` of PSPNet and ``p`` and ``q`` of ESPNet.

    Raises:
        ValueError: an unknown name, norm or option, or a value that the network refuses.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(sorted(NETWORKS))}")
    parameters = inspect.signature(NETWORKS[name]).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    if unknown := sorted(options.keys() - set(known)):
        raise ValueError(f"{name} has no option {', '.join(unknown)}; known: {', '.join(known)}")
    network = NETWORKS[name](num_classes, norm=norm, **options)
    network.config = {"name": name, "num_classes": num_classes, **options}
    return network
