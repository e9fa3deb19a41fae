"""The common form of all weight files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from segdistill.dataset.normalization import Normalization


@dataclass
class Weights:
    """A recognised file: the state dict in our key names and what it says about its network.

    family: the file of ``segdistill.network.weights`` that read it. config: the arguments of ``build_network``; empty
    for a backbone alone. normalization: None if the file has none. skipped: entries of the file that our network does
    not have. palette: the colours of the classes, RGB, 0..255. input_size: height and width of the network's input
    image; None for the image's size. counts_void: the last class is void, one more than the data set's. scales: of its
    int8 convolutions, see ``segdistill.network.int8``.
    """

    family: str
    state_dict: dict[str, Tensor]
    config: dict
    normalization: Normalization | None
    source: str = "a state dict"
    sha256: str | None = None
    skipped: list[str] = field(default_factory=list)
    classes: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    input_size: tuple[int, int] | None = None
    counts_void: bool = False
    scales: dict[str, Tensor] = field(default_factory=dict)


def is_state_dict(content: object) -> bool:
    """Whether ``content`` is a non-empty mapping of names to tensors."""
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


def is_counter(key: str) -> bool:
    """BatchNorm's, which files older than PyTorch 0.4.1 and the originals' in-place layers do not have."""
    return key.endswith("num_batches_tracked")


def count_blocks(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    """Number of blocks: distinct numbers after ``prefix.`` in the keys."""
    return len({match[1] for key in state_dict if (match := re.match(rf"{re.escape(prefix)}\.(\d+)\.", key))})


def name_of_resnet(state_dict: Mapping[str, Tensor], prefix: str = "") -> str:
    """The name in ``segdistill.network.backbone`` of the ResNet under ``prefix``."""
    depth = count_blocks(state_dict, f"{prefix}layer3")
    names = {2: "resnet18", 6: "resnet50", 23: "resnet101"}
    if depth not in names:
        raise ValueError(f"it holds a ResNet with {depth} blocks in layer3; known: {names}")
    deep = f"{prefix}conv3.weight" in state_dict or f"{prefix}conv1.6.weight" in state_dict
    return names[depth] + ("_v1s" if deep else "")


def name_of_mit(state_dict: Mapping[str, Tensor], prefix: str = "") -> str:
    """The name in ``segdistill.network.backbone`` of the Mix Transformer under ``prefix``."""
    width = len(state_dict[f"{prefix}patch_embed1.proj.weight"])
    depth = count_blocks(state_dict, f"{prefix}block3")
    names = {(32, 2): "mit_b0", (64, 2): "mit_b1", (64, 6): "mit_b2", (64, 18): "mit_b3", (64, 27): "mit_b4"}
    names[64, 40] = "mit_b5"
    if (width, depth) not in names:
        raise ValueError(f"a Mix Transformer of width {width} and depth {depth} is not known; known: {names}")
    return names[width, depth]


def rename(key: str, rules: Mapping[str, str]) -> str:
    """``key`` after every rule, a regular expression and what replaces it, in turn."""
    for pattern, replacement in rules.items():
        key = re.sub(pattern, replacement, key)
    return key


def flat_mobilenetv2(key: str) -> str:
    """A key of the MobileNetV2 whose blocks are one Sequential, as in CIRKD and AKD, in torchvision's (nested) form."""
    match = re.fullmatch(r"(features\.(\d+)\.conv)\.(\d)\.(\w+)", key)
    if not match:
        return key
    places = ("0.0", "0.1", "", "1.0", "1.1", "", "2", "3")
    place = places[int(match[3])]
    if match[2] == "1":  # no expansion: the last convolution comes at once
        place = {"3": "1", "4": "2"}.get(match[3], place)
    return f"{match[1]}.{place}.{match[4]}"
