"""The contract of a network: feature maps by name, each with its channels and its stride."""

import copy
import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.network.depth import positive_depth

if TYPE_CHECKING:
    from segdistill.dataset import Normalization
    from segdistill.dataset.depth import DepthRange

# The features that have a channel for each class.
CLASS_FEATURES = frozenset({"logits", "aux_logits", "encoder_logits"})
# Of more features an error names those alone whose names are near.
MOST_LISTED = 12


class Feature(NamedTuple):
    """A feature map (N, channels, ~H / stride, ~W / stride) of images (N, 3, H, W)."""

    channels: int
    stride: int


class SegmentationOutput(NamedTuple):
    """A network's output for a batch of N images.

    logits: (N, C, h, w) float at the network's own stride, not upsampled; None of a network without classes.
    features: the maps that the caller named, each (N, C_name, h_name, w_name); "logits" may be among them.
    """

    logits: Tensor | None
    features: dict[str, Tensor]


class SegmentationNetwork(nn.Module):
    """Base class of all networks: a subclass declares ``num_classes`` and ``features`` and writes ``maps``.

    Feature names mean the same everywhere: ``layer1`` ... ``layer4`` the stages of the backbone, ``context`` the map
    that the classifier reads, ``logits``, ``aux_logits`` the logits of a deep-supervision head, ``depth`` one positive
    map, ``NAME.pre`` a map before its activation. A head whose map is not requested is not run.
    """

    num_classes: int  # 0: no classes, and no "logits" among the features
    features: dict[str, Feature]
    # The classes that it can predict; None for all. A network mapped from other classes may lack some.
    known_classes: tuple[int, ...] | None = None
    # The input convention of its library or author; None: unknown.
    normalization: "Normalization | None" = None
    # The names of its classes, where its published weights come with them; None: unknown.
    classes: tuple[str, ...] | None = None
    # The options saved in ``config`` if they differ from the given ones, such as ``pretrained``.
    rebuild: dict | None = None
    # The module that starts from ImageNet: --lr-factor, --layer-decay and --freeze name it backbone.
    backbone_name: str = "backbone"
    # The arguments of ``build_network`` for this network; saved in checkpoints.
    config: dict
    # What its map ``depth`` means; None of a network without one.
    depth: "DepthRange | None" = None
    depth_from_logits: bool = False
    # Channels of the logits that ``answer_in_depth`` makes one map of.
    DEPTH_CHANNELS: ClassVar[int] = 1
    # Why bfloat16 autocast on the CPU is refused for this network; empty where it is not.
    BF16_ON_CPU: ClassVar[str] = ""
    # How a user says that the channels of its output are no classes; empty where that is known.
    NO_CLASSES: ClassVar[str] = ""
    # The least height and width of an image, in pixels.
    MIN_SIDE: ClassVar[int] = 1

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        """At least the maps named in ``wanted``, of images (N, 3, H, W) float, normalised."""
        raise NotImplementedError

    def answer_in_depth(self, limits: "DepthRange") -> None:
        """Make the logits one positive map: ``depth`` and ``depth.pre`` are features in their place, without classes.

        Raises:
            ValueError: a network without logits.
        """
        if "logits" not in self.features:
            raise ValueError(
                f"{type(self).__name__} has no head to answer in depth: smp: builds a decoder on the same backbone "
                "(--network smp:unet --network-options encoder_name=tu-NAME)"
            )
        before = self.features["logits"]
        self.features = {name: one for name, one in self.features.items() if name not in CLASS_FEATURES}
        self.features |= {"depth.pre": before, "depth": Feature(1, before.stride)}
        self.num_classes, self.depth, self.depth_from_logits = 0, limits, True

    def norm_before(self, feature: str) -> nn.BatchNorm2d:
        """The BatchNorm whose output is (or is added into) the map ``feature``, a map before its activation."""
        raise ValueError(f"{type(self).__name__} has no BatchNorm before {feature}")

    def forward(self, images: Tensor, features: Iterable[str] = ()) -> SegmentationOutput:
        """Logits, if the network has any, and the features that are asked for, no others. One of depth computes its
        answer too, so that its cost is seen; it is among the features if it is asked for.

        Raises:
            ValueError: a feature that the network does not have, or images that are too small for it.
        """
        features = frozenset(features)
        output = self.extract(images, features | ({"logits", "depth"} & set(self.features)))
        return SegmentationOutput(output.logits, {name: output.features[name] for name in sorted(features)})

    def extract(self, images: Tensor, wanted: frozenset[str]) -> SegmentationOutput:
        """The features ``wanted``, no others; logits only if they are among them. Raises: as ``forward``."""
        self.check_features(wanted)
        height, width = images.shape[2:]
        if min(height, width) < self.MIN_SIDE:
            raise ValueError(
                f"{type(self).__name__} needs images of at least {self.MIN_SIDE} pixels a side, not {height}x{width}"
            )
        maps = self.all_maps(images, wanted)
        return SegmentationOutput(maps.get("logits"), {name: maps[name] for name in sorted(wanted)})

    def all_maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        """``maps``, with depth from the logits where ``answer_in_depth`` says so."""
        asked = wanted & {"depth", "depth.pre"} if self.depth_from_logits else frozenset()
        if not asked:
            return self.maps(images, wanted)
        maps = self.maps(images, wanted - asked | {"logits"})
        maps["depth.pre"] = maps.pop("logits")
        return maps | ({"depth": positive_depth(maps["depth.pre"], self.depth)} if "depth" in asked else {})

    def check_features(self, names: Iterable[str]) -> None:
        """Raise ValueError if one of ``names`` is no feature of this network."""
        unknown, known = sorted(set(names) - set(self.features)), sorted(self.features)
        if not unknown:
            return
        words = f"known: {', '.join(known)}"
        if len(known) > MOST_LISTED:
            near = difflib.get_close_matches(unknown[0], known, n=MOST_LISTED, cutoff=0.4) or known[-MOST_LISTED:]
            words = f"near that: {', '.join(near)}; it has {len(known)} in all"
        raise ValueError(f"{type(self).__name__} has no feature {', '.join(unknown)}; {words}")


def resize(maps: Tensor, size: torch.Size | tuple[int, int], align_corners: bool = True) -> Tensor:
    """Maps (N, C, h, w) at ``size``, bilinear, by default with aligned corners; unchanged if they have the size."""
    if torch.compiler.is_exporting():  # for any size: a comparison would fix what the example's size gave
        if all(side == 1 and isinstance(side, int) for side in maps.shape[2:]):
            return maps.expand(-1, -1, *size)  # some runtimes cannot enlarge a single position
    elif maps.shape[2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=align_corners)


def freeze_unused(network: SegmentationNetwork, wanted: Iterable[str]) -> list[str]:
    """Freeze every parameter that no map in ``wanted`` depends on; returns their names.

    DistributedDataParallel would wait for the gradient of a head that is not run, and weight decay would shrink it.
    """
    shadow, side = copy.deepcopy(network).cpu().eval(), max(64, network.MIN_SIDE)
    output = shadow(torch.zeros(1, 3, side, side), wanted)
    total = sum(feature.sum() for feature in output.features.values())
    parameters = {name: value for name, value in shadow.named_parameters() if value.requires_grad}
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    unused = [name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None]
    for name in unused:
        network.get_parameter(name).requires_grad_(False)
    return unused
