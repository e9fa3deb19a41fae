"""The networks by name, ours and any other library's; a network is registered by an import and an entry here."""

import re
from collections.abc import Sequence

from segdistill.dataset.depth import DepthRange
from segdistill.network.base import SegmentationNetwork
from segdistill.network.deeplabv3 import DeepLabV3
from segdistill.network.deeplabv3plus import DeepLabV3Plus
from segdistill.network.espnet import ESPNet, ESPNetC
from segdistill.network.external import LIBRARIES, adapter_of, network_in_file
from segdistill.network.external.program import ProgramNetwork, has_program
from segdistill.network.pspnet import PSPNet
from segdistill.network.segformer import SegFormer
from segdistill.network.settings import settings_of
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
# Keywords of networks that are no settings: they have their own flag or place.
HIDDEN = ("norm", "model", "hf_config", "hf_processor", "file")


def network_class(name: str) -> type[SegmentationNetwork]:
    """The class behind a name; its keyword-only parameters but those in ``HIDDEN`` are the settings of the network.

    Raises: as ``build_network``, and FileNotFoundError for a file with its program that is not there.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    prefix, colon, _ = name.partition(":")
    if colon and prefix in LIBRARIES:
        return adapter_of(prefix)
    if re.search(r"\.py:\w+$", name):
        return network_in_file(name)
    if has_program(name):
        return ProgramNetwork
    elsewhere = ", ".join([*(f"{library}:NAME" for library in LIBRARIES), "FILE.py:CLASS, FILE.onnx, FILE.pt2"])
    raise ValueError(f"unknown network {name!r}; known: {', '.join(sorted(NETWORKS))}, {elsewhere}")


def build_network(
    name: str,
    num_classes: int | None,
    *,
    norm: str = "batch_norm",
    depth: Sequence | None = None,
    **options,
) -> SegmentationNetwork:
    """Build a network by name.

    Args:
        name: one of ``NETWORKS``, a library's such as ``timm:convnext_tiny`` (docs/external.md), or the class of a
            file, ``path/to/my_net.py:MyNet``.
        num_classes: channels of the logits, if the network has classes. None, for a library's network only: the
            model's own class count.
        norm: normalisation factory of ``libs``; the state-dict keys do not depend on it.
        depth: a ``DepthRange``, in which the network answers in place of classes; it then has none. One that has a map
            of depth already keeps its own.
        options: the network's own keywords, such as ``backbone`` of PSPNet and ``p`` and ``q`` of ESPNet.

    Raises:
        ValueError: an unknown name, norm or option, a value that the network refuses, or a library that is missing.
        OSError: a missing file, or weights that cannot be fetched.
    """
    cls = network_class(name)
    if cls is ProgramNetwork:
        raise ValueError(
            f"{name} is a program, which cannot be trained: it can be a teacher (--teacher-network {name})"
        )
    known = settings_of(cls)
    if unknown := sorted(options.keys() - known.keys()):
        raise ValueError(f"{name} has no option {', '.join(unknown)}; known: {', '.join(known)}")
    given = dict(options)
    if "norm" in known:
        given["norm"] = norm
    elif norm != "batch_norm":
        raise ValueError(f"norm {norm} has no effect with {name}, which has layers of its own")
    if name.partition(":")[0] in LIBRARIES:
        given["model"] = name.partition(":")[2]
    network = cls(num_classes if depth is None else cls.DEPTH_CHANNELS, **given)
    rebuild = options if network.rebuild is None else network.rebuild
    if depth is not None and "depth" not in network.features:
        network.answer_in_depth(DepthRange(*depth))
        rebuild = {**rebuild, "depth": list(depth)}
    network.config = {"name": name, "num_classes": network.num_classes, **rebuild}
    return network
