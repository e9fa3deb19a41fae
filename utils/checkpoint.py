"""One door for weights: our own checkpoints and every released format, recognised by their keys."""

import hashlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from segdistill.dataset import Normalization
from segdistill.dataset.normalization import IMAGENET
from segdistill.network import SegmentationNetwork, build_network
from segdistill.utils import weights as families
from segdistill.utils.weights import Weights

FORMAT_VERSION = 1


@dataclass
class LoadReport:
    """What ``load_weights`` did: entries used, in the file but not used, and left at their initial values."""

    family: str
    used: list[str]
    skipped: list[str]
    missing: list[str]
    normalization: Normalization
    sha256: str | None
    config: dict
    classes: tuple[str, ...] | None = None

    def __str__(self) -> str:
        digest = f", SHA-256 {self.sha256[:12]}" if self.sha256 else ""
        return (
            f"{self.family}: {len(self.used)} entries used, {len(self.skipped)} skipped, {len(self.missing)} missing"
            f"{digest}; input {self.normalization.channels}, scale {self.normalization.scale:.4g}"
        )


def load_network(
    source: str | os.PathLike | Mapping, norm: str = "batch_norm", expected: SegmentationNetwork | None = None
) -> tuple[SegmentationNetwork, LoadReport]:
    """Build the network that a checkpoint describes and load it; eval mode, on the CPU.

    Args:
        expected: the network that the file must hold; a plain state dict, in that network's own or its library's keys,
            describes none and is loaded into it.

    Raises: as ``load_weights``, and ValueError for a file that holds only a backbone or another network than expected.
    """
    weights = read_weights(source, expected)
    if not weights.config:
        remedy = "; give a network it belongs in" if expected is None else f", not a {expected.config['name']}"
        raise ValueError(f"{weights.source} holds a backbone only{remedy}")
    if expected is not None and weights.config["name"] != expected.config["name"]:
        raise ValueError(f"{weights.source} holds a {weights.config['name']}, not a {expected.config['name']}")
    network = build_network(**weights.config, norm=norm)
    if expected is not None and network.num_classes == expected.num_classes and shapes(network) != shapes(expected):
        raise ValueError(f"{weights.source} holds {weights.config}, which is not {expected.config}")
    return network.eval(), load_weights(network, weights)


def load_weights(
    network: nn.Module, source: str | os.PathLike | Mapping | Weights, skip_classifier: bool = False
) -> LoadReport:
    """Load our own or any released checkpoint into ``network``.

    Args:
        source: a path, a state dict (in our or the originals' key names), or what ``read_weights`` returned.
        skip_classifier: leave the entries whose shape depends on the class count at their initial values if the file
            has another class count.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unreadable or unsafe file, unknown family, or keys that are missing, left over or of another shape;
            the message names them. The network is unchanged then.
    """
    weights = source if isinstance(source, Weights) else read_weights(source)
    own = network.state_dict()
    given = dict(weights.state_dict)
    backbone_only = not weights.config

    reshaped = [key for key in given if key in own and given[key].shape != own[key].shape]
    other_classes = not backbone_only and weights.config["num_classes"] != network.num_classes
    skipped = list(weights.skipped)
    if skip_classifier and other_classes:
        skipped += reshaped
        given = {key: value for key, value in given.items() if key not in reshaped}
        reshaped = []

    left_over = [key for key in given if key not in own]
    # BatchNorm's counter is absent from files older than PyTorch 0.4.1 and from the originals' in-place layers.
    missing = [key for key in own if key not in given and not key.endswith("num_batches_tracked")]
    absent = [key for key in missing if key not in skipped and not (backbone_only and not key.startswith("backbone."))]
    problems = [f"{key}: {tuple(given[key].shape)} -> {tuple(own[key].shape)}" for key in reshaped]
    problems += [f"{key}: missing in the file" for key in absent]
    problems += [f"{key}: not in the network" for key in left_over]
    if problems:
        more = f"\n  ... and {len(problems) - 12} more" if len(problems) > 12 else ""
        hint = ""
        if other_classes:
            hint = f" (the file has {weights.config['num_classes']} classes, the network {network.num_classes})"
        raise ValueError(
            f"{weights.source} ({weights.family}) does not fit {type(network).__name__}{hint}:\n  "
            + "\n  ".join(problems[:12])
            + more
        )
    network.load_state_dict(given, strict=False)
    return LoadReport(
        weights.family,
        sorted(given),
        skipped,
        missing,
        weights.normalization,
        weights.sha256,
        weights.config,
        weights.classes,
    )


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in network.state_dict().items()}


def read_weights(source: str | os.PathLike | Mapping, expected: SegmentationNetwork | None = None) -> Weights:
    """Recognise a checkpoint by its keys and rename them to ours. Args, raises: as ``load_network``."""
    if isinstance(source, Mapping):
        return recognise(source, expected=expected)
    path = Path(source)
    content = read_file(path)
    weights = recognise(content, str(path), expected)
    weights.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return weights


def read_file(path: Path, remedy: str = "fetch it again") -> Mapping:
    """The content of a .pth file; tensors and plain containers only, never code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged (the message ends with ``remedy``), unsafe or no mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}; docs/checkpoints.md says where released files are found")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes break the reader in any way
        if unsafe := re.search(r"unsupported (global|class):? \S+ ?\S*", str(error), re.IGNORECASE):
            raise ValueError(
                f"{path} is refused: it holds more than tensors and could run code ({unsafe[0]})"
            ) from error
        # PyTorch surrounds the reason with advice to switch weights_only off.
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and "weights_only" not in line]
        why = lines[0] if lines else type(error).__name__
        raise ValueError(f"{path} cannot be read ({why}); it is truncated or no PyTorch file: {remedy}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content


def recognise(content: Mapping, source: str = "the state dict", expected: SegmentationNetwork | None = None) -> Weights:
    """Tell the family of a loaded file by its keys."""
    if content.get("format") == "segdistill":
        if content["format_version"] > FORMAT_VERSION:
            raise ValueError(f"{source} was written by a newer segdistill (format {content['format_version']})")
        try:
            normalization = Normalization(*content["normalization"])
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        classes = tuple(content["classes"]) if "classes" in content else None
        return Weights("segdistill", content["state_dict"], content["config"], normalization, source, classes=classes)
    if isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    content = {key.removeprefix("module."): value for key, value in content.items()}
    plain = None if expected is None else read_plain(content, expected, source)
    return plain or families.recognise(content, source)


def read_plain(content: Mapping[str, Tensor], network: SegmentationNetwork, source: str) -> Weights | None:
    """A state dict that has every entry of ``network``, by its own keys or by those of the library inside it."""
    needed = {key for key in network.state_dict() if not key.endswith("num_batches_tracked")}
    for prefix in ("", "model."):
        renamed = {prefix + key: value for key, value in content.items()}
        if needed <= renamed.keys():
            skipped = sorted(renamed.keys() - network.state_dict().keys())  # the library's classifier of whole images
            kept = {key: value for key, value in renamed.items() if key not in skipped}
            family, _, _ = network.config["name"].partition(":")
            convention = network.normalization or IMAGENET
            return Weights(family, kept, network.config, convention, source, skipped=skipped)
    return None


def describe(network: SegmentationNetwork) -> LoadReport:
    """The report of a network whose weights its library fetched; the checksum is that of its tensors."""
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode() + value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    family, _, _ = network.config["name"].partition(":")
    convention = network.normalization or IMAGENET
    used = sorted(network.state_dict())
    return LoadReport(family, used, [], [], convention, digest.hexdigest(), network.config)


def export_weights(network: nn.Module, normalization: Normalization, **card) -> dict:
    """What ``best.pth`` holds: a network's weights and all it takes to use them; ``card`` is plain data for people."""
    return {
        "format": "segdistill",
        "format_version": FORMAT_VERSION,
        "config": network.config,
        "normalization": astuple(normalization),
        "state_dict": network.state_dict(),
        **card,
    }


def atomic_save(content: Mapping, path: str | os.PathLike) -> None:
    """Write a checkpoint so that a kill or a full disk at any instant leaves the old file or the new one, whole.

    Raises:
        OSError: it could not be written; names the file, and leaves nothing half-written behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        temporary.unlink(missing_ok=True)
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = getattr(cause, "strerror", None) or str(cause).splitlines()[0]
        raise OSError(f"could not write {path} ({reason}); the previous checkpoint, if any, is intact") from error


def not_finite(content: object, path: str = "") -> list[str]:
    """The places in nested containers where a tensor or a number is not finite."""
    if isinstance(content, Tensor):
        return [] if not content.is_floating_point() or content.isfinite().all() else [path]
    if isinstance(content, float):
        return [] if math.isfinite(content) else [path]
    if isinstance(content, Mapping):
        pairs = content.items()
    elif isinstance(content, list | tuple):
        pairs = enumerate(content)
    else:
        return []
    return [place for key, value in pairs for place in not_finite(value, f"{path}/{key}" if path else str(key))]
