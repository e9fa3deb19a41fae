"""The model zoo: ``build_network("pspnet", num_classes=19, backbone="resnet18")``."""

from collections.abc import Callable

from torch import nn

from segdistill.network.backbone import BACKBONES
from segdistill.network.espnet import ESPNet, ESPNetC
from segdistill.network.output import SegmentationOutput
from segdistill.network.pspnet import PSPNet

NETWORKS: dict[str, Callable[..., nn.Module]] = {"pspnet": PSPNet, "espnet": ESPNet, "espnet_c": ESPNetC}

__all__ = ["BACKBONES", "NETWORKS", "SegmentationOutput", "build_network"]


def build_network(
    name: str, num_classes: int, backbone: str | None = None, norm: str = "batch_norm", **options
) -> nn.Module:
    """Build a network by name.

    Args:
        name: one of ``NETWORKS``.
        num_classes: channels of the logits.
        backbone: one of ``BACKBONES`` for the networks that take one; None for those that do not (ESPNet).
        norm: normalisation factory of ``libs``; the state-dict keys do not depend on it.
        options: the network's own, such as ``p`` and ``q`` of ESPNet.

    Returns:
        A module with ``num_classes``, ``feature_channels`` (feature name -> channels) and
        ``forward(images, features=(), aux=True) -> SegmentationOutput``. Images are (N, 3, H, W) float, normalised.

    Raises:
        ValueError: an unknown name, backbone, norm or option, or a backbone where none or another is expected.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(sorted(NETWORKS))}")
    if NETWORKS[name].takes_backbone:
        if backbone not in BACKBONES:
            raise ValueError(f"{name} needs a backbone, not {backbone!r}; known: {', '.join(sorted(BACKBONES))}")
        options["backbone"] = backbone
    elif backbone is not None:
        raise ValueError(f"{name} takes no backbone, but {backbone!r} was given")
    try:
        network = NETWORKS[name](num_classes, norm=norm, **options)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
    # What it takes to build this network again; checkpoints carry it.
    network.config = {"name": name, "num_classes": num_classes, **options}
    return network
