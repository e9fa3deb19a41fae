"""The model zoo: ``build_network("pspnet", num_classes=19, backbone="resnet18_v1s")``, ``load_network("best.pth")``."""

from segdistill.network.base import Feature, SegmentationNetwork, SegmentationOutput, resize
from segdistill.network.registry import HIDDEN, NETWORKS, build_network, network_class
from segdistill.network.weights import LoadReport, load_network, load_weights

__all__ = [
    "HIDDEN",
    "NETWORKS",
    "Feature",
    "LoadReport",
    "SegmentationNetwork",
    "SegmentationOutput",
    "build_network",
    "load_network",
    "load_weights",
    "network_class",
    "resize",
]
