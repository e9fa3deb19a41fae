"""Our own files: weights with all it takes to use them. Every field is checked before anything is built from it."""

from collections.abc import Mapping

from torch import Tensor

from segdistill.dataset.normalization import Normalization
from segdistill.network.base import SegmentationNetwork
from segdistill.network.weights.base import Weights, is_state_dict
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
        raise ValueError(f"its config needs a network's name and num_classes, a whole number; it is {config!r}")
    if "norm" in config or not all(isinstance(key, str) for key in config):
        raise ValueError(f"its config may hold the network's options, without norm, and nothing else; it is {config!r}")
    state_dict = field(content, "state_dict", Mapping, "a dict")
    if not is_state_dict(state_dict):
        raise ValueError("its state_dict does not hold tensors by name")
    return Weights(
        "segdistill",
        dict(state_dict),
        dict(config),
        read_normalization(field(content, "normalization", list | tuple, "channels, mean, std, scale")),
        classes=read_classes(content.get("classes"), config["num_classes"]),
        input_size=read_size(content.get("input_size")),
    )


def claims_raw(state_dict: Mapping[str, Tensor], config: Mapping) -> bool:
    """Whether a bare state dict names entries of the network described by ``config``, whatever its class count."""
    return not blueprint({"num_classes": 20, **config}).keys().isdisjoint(state_dict)


def read_raw(state_dict: Mapping[str, Tensor], config: Mapping) -> Weights:
    """A bare state dict in our key names says neither its class count, which is computed, nor its colours."""
    config = {**config, "num_classes": count_classes(state_dict, config)}
    return Weights("segdistill, bare", dict(state_dict), config, normalization=None)


def read_plain(state_dict: Mapping[str, Tensor], network: SegmentationNetwork) -> Weights | None:
    """A state dict that fits a library's ``network``, by its keys here or there; None if it does not."""
    family, colon, _ = network.config["name"].partition(":")
    if not colon:
        return None
    own = network.state_dict()
    needed = {key for key in own if not key.endswith("num_batches_tracked")}
    for prefix in ("", "model."):
        renamed = {prefix + key: value for key, value in state_dict.items()}
        if needed <= renamed.keys() and all(renamed[key].shape == own[key].shape for key in needed):
            kept = {key: value for key, value in renamed.items() if key in own}
            skipped = sorted(renamed.keys() - kept.keys())  # the library's classifier of whole images
            return Weights(
                family, kept, network.config, network.normalization, skipped=skipped, classes=network.classes
            )
    return None


def field(content: Mapping, name: str, kind: type, meaning: str) -> object:
    if name not in content:
        raise ValueError(f"it has no {name}")
    if not isinstance(content[name], kind) or isinstance(content[name], bool):
        raise ValueError(f"its {name} should be {meaning}; it is {content[name]!r}")
    return content[name]


def read_normalization(values: list | tuple) -> Normalization:
    match values:
        case [str(), [*mean], [*std], *scale] if len(scale) < 2 and all(map(is_number, [*mean, *std, *scale])):
            return Normalization(*values)
    raise ValueError(f"its normalization should be channels, three means, three stds and a scale; it is {values!r}")


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_classes(names: object, num_classes: int) -> tuple[str, ...] | None:
    if names is None:
        return None
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"its classes should be names; they are {names!r}")
    if len(names) != num_classes:
        raise ValueError(f"it has {num_classes} classes, but names {len(names)}")
    return tuple(names)


def read_size(size: object) -> tuple[int, int] | None:
    match size:
        case None:
            return None
        case [height, width] if type(height) is type(width) is int and min(height, width) > 0:
            return height, width
    raise ValueError(f"its input_size should be a height and a width; it is {size!r}")
