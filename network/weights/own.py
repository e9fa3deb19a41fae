"""Our own file format: weights with metadata. Every field is checked before it is used."""

import re
from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from segdistill.dataset.normalization import Normalization
from segdistill.libs.text import shown
from segdistill.network.external import LIBRARIES
from segdistill.network.weights.base import Weights, is_counter, is_state_dict
from segdistill.network.weights.shapes import blueprint, count_classes

FORMAT_VERSION = 1


def claims(content: Mapping) -> bool:
    return content.get("format") == "segdistill"


def read(content: Mapping) -> Weights:
    """Read a file's content. Raises: ValueError naming the field that is missing or wrong."""
    version = field(content, "format_version", int, "a whole number")
    if version > FORMAT_VERSION:
        raise ValueError(f"it was written by a newer segdistill (format {version})")
    config = field(content, "config", Mapping, "a dict")
    if not isinstance(config.get("name"), str) or type(config.get("num_classes")) is not int:
        raise ValueError(f"its config needs a network's name and num_classes, a whole number; it is {shown(config)}")
    if "norm" in config or not all(isinstance(key, str) for key in config):
        raise ValueError(f"its config may hold the network's options alone, without norm; it is {shown(config)}")
    state_dict = field(content, "state_dict", Mapping, "a dict")
    if not is_state_dict(state_dict):
        raise ValueError("its state_dict does not hold tensors by name")
    return Weights(
        "segdistill",
        dict(state_dict),
        without_downloads(config),
        read_normalization(field(content, "normalization", list | tuple, "channels, mean, std, scale")),
        classes=read_classes(content.get("classes"), config["num_classes"]),
        palette=read_palette(content.get("palette"), config["num_classes"]),
        input_size=read_size(content.get("input_size")),
        counts_void=content.get("counts_void") is True,
        scales=read_scales(content.get("int8")),
    )


def read_plain(state_dict: Mapping[str, Tensor], described: Mapping, whole: bool) -> Weights | None:
    """A plain state dict in the key names of the network described, or of its library; None if it is not.

    The class count is computed if ``described`` lacks it. The input convention is the library's, or unknown for our
    networks.

    Args:
        whole: read it only if it is of a library's network and lacks nothing.
    """
    is_ours = ":" not in described["name"]
    if whole and is_ours:
        return None
    network = blueprint({"num_classes": 20, **described})
    own = {key: value.shape for key, value in network.state_dict().items()}
    # The library's model is an attribute of its adapter, and prefixes that all names share were removed.
    places = Counter(name[:i] for name in own for i in starts_of(name) if name[i:] in state_dict)
    prefix = max(places, key=places.get, default="")
    renamed = {prefix + key: value for key, value in state_dict.items()}
    absent = [key for key in own if key not in renamed and not is_counter(key)]
    if renamed.keys().isdisjoint(own) or (whole and absent):
        return None
    fits = not absent and all(renamed[key].shape == shape for key, shape in own.items() if key in renamed)
    if "num_classes" not in described or not fits:
        network = blueprint({**described, "num_classes": count_classes(renamed, described)})
    if is_ours:
        return Weights("segdistill, bare", renamed, network.config, normalization=None)
    if ".py:" in described["name"]:  # a user's own has no other entries that would be expected
        own = renamed
    kept = {key: value for key, value in renamed.items() if key in own}
    skipped = sorted(renamed.keys() - kept.keys())  # the library's classifier of whole images
    family, _, _ = described["name"].partition(":")
    return Weights(family, kept, network.config, network.normalization, skipped=skipped, classes=network.classes)


def starts_of(name: str) -> list[int]:
    """Where the parts of a dotted name begin."""
    return [0, *(match.end() for match in re.finditer(r"\.", name))]


def without_downloads(config: Mapping) -> dict:
    """A config without the options that download weights.

    Raises:
        ValueError: it names a model that is described nowhere but on a hub.
    """
    library, _, model = config["name"].partition(":")
    models = str(config.get("encoder_name")) + (model if library in LIBRARIES else "")
    if ":" in models or (library == "hf" and not isinstance(config.get("hf_config"), Mapping)):
        raise ValueError(f"its config names a model that would have to be fetched: {shown(config)}")
    return {key: offline(value) for key, value in config.items() if key != "pretrained"}


def offline(value: object) -> object:
    """A setting with every nested ``*pretrained*`` set to false."""
    if not isinstance(value, Mapping):
        return value
    return {key: False if "pretrained" in str(key) and item is True else offline(item) for key, item in value.items()}


def field(content: Mapping, name: str, kind: type, meaning: str) -> object:
    if name not in content:
        raise ValueError(f"it has no {name}")
    if not isinstance(content[name], kind) or isinstance(content[name], bool):
        raise ValueError(f"its {name} should be {meaning}; it is {shown(content[name])}")
    return content[name]


def read_normalization(values: list | tuple) -> Normalization:
    match values:
        case [str(), [*mean], [*std], *scale] if len(scale) < 2 and all(map(is_number, [*mean, *std, *scale])):
            return Normalization(*values)
    raise ValueError(f"its normalization should be channels, three means and stds, a scale; it is {shown(values)}")


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_classes(names: object, num_classes: int) -> tuple[str, ...] | None:
    if names is None:
        return None
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"its classes should be names; they are {shown(names)}")
    if len(names) != num_classes:
        raise ValueError(f"it has {num_classes} classes, but names {len(names)}")
    return tuple(names)


def read_palette(colors: object, num_classes: int) -> tuple[tuple[int, int, int], ...] | None:
    if colors is None:
        return None
    if not isinstance(colors, list | tuple) or not all(map(is_color, colors)) or len(colors) != num_classes:
        raise ValueError(f"its palette should be {num_classes} colours of three numbers 0..255; it is {shown(colors)}")
    return tuple(map(tuple, colors))


def is_color(color: object) -> bool:
    return (
        isinstance(color, list | tuple)
        and len(color) == 3
        and all(type(value) is int and 0 <= value <= 255 for value in color)
    )


def read_scales(scales: object) -> dict[str, Tensor]:
    if scales is None:
        return {}
    if not is_state_dict(scales):
        raise ValueError("its int8 does not hold tensors by name")
    return dict(scales)


def read_size(size: object) -> tuple[int, int] | None:
    match size:
        case None:
            return None
        case [height, width] if type(height) is type(width) is int and min(height, width) > 0:
            return height, width
    raise ValueError(f"its input_size should be a height and a width; it is {shown(size)}")
