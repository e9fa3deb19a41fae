"""Loading and saving of checkpoints: our own and every released format, recognised by their keys."""

import hashlib
import math
import os
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from segdistill.dataset.normalization import Normalization
from segdistill.libs.files import replacing, sha256_of
from segdistill.libs.text import shown
from segdistill.network.base import SegmentationNetwork
from segdistill.network.external.program import ProgramNetwork, kind_of_file, runs_code
from segdistill.network.int8 import int8_layers, restore, scales_of
from segdistill.network.registry import HIDDEN, build_network, network_class
from segdistill.network.settings import parse_settings
from segdistill.network.weights.archive import parts_of, read_file
from segdistill.network.weights.base import Weights, is_counter
from segdistill.network.weights.families import recognise
from segdistill.network.weights.hub import local_file
from segdistill.network.weights.own import FORMAT_VERSION
from segdistill.network.weights.shapes import WithoutDrawing, blueprint, class_dependent


@dataclass
class LoadReport:
    """Result of ``load_weights``: entries used, skipped (in the file only) and missing (initial values kept).

    normalization: None if neither the file nor the network's library has one.
    classes, palette: names and colours (RGB, 0..255) of the classes, where the file has them.
    input_size: height and width of the network's input image; None for the image's size.
    counts_void: the last class is void, one more than the data set's.
    int8: number of convolutions that compute as int8.
    """

    family: str
    used: list[str]
    skipped: list[str]
    missing: list[str]
    normalization: Normalization | None
    sha256: str | None
    config: dict
    classes: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    input_size: tuple[int, int] | None = None
    counts_void: bool = False
    int8: int = 0

    def __str__(self) -> str:
        words = [f"{len(self.used)} entries used, {len(self.skipped)} skipped, {len(self.missing)} missing"]
        if self.config:
            names = textwrap.shorten(f"({', '.join(self.classes)})", 80, placeholder=" ...)") if self.classes else ""
            words.append(f"{self.config['num_classes']} classes {names}".strip())
        colours = self.normalization
        words.append(f"input {colours.channels}, scale {colours.scale:.4g}" if colours else "input not told")
        if self.input_size:
            words.append("shown at {}x{} (height x width)".format(*self.input_size))
        if self.int8:
            words.append(f"int8 in {self.int8} convolutions")
        if self.sha256:
            words.append(f"SHA-256 {self.sha256[:12]}")
        return f"{self.family}: {'; '.join(words)}"


def load_network(
    source: str | os.PathLike | Mapping | Weights,
    norm: str = "batch_norm",
    options: Sequence[str] = (),
    described: Mapping | None = None,
    trusted: Collection[str] = (),
) -> tuple[SegmentationNetwork, LoadReport]:
    """Build the network that a checkpoint describes and load it; eval mode, on the CPU.

    Args:
        options: ``key=value`` settings of the network that override the file's, such as ``output_stride=8``, which
            files lack.
        described: the expected network: known arguments of ``build_network``, at least the name. A plain state dict
            is read as this network.
        trusted: names of networks whose code may be run (``FILE.py:CLASS``); ``described`` is trusted, too.

    Raises: as ``load_weights``, and ValueError for a file that holds only a backbone or another network than
        described, or options its network lacks.
    """
    if not isinstance(source, Mapping | Weights) and (kind := kind_of_file(Path(source))):
        return load_program(Path(source), kind, described or {}, trusted)
    if described:
        described = {**described, **parse_options(described["name"], options)}
    weights = source if isinstance(source, Weights) else read_weights(source, described)
    if not weights.config:
        raise ValueError(
            f"{weights.source} holds a backbone only"
            + (f", not a {described['name']}" if described else "; give a network it belongs in")
        )
    if described and same_class(weights.config["name"], described["name"]):
        weights.config["name"] = described["name"]  # where its file is now
    name = weights.config["name"]
    if described and name != described["name"]:
        raise ValueError(f"{weights.source} holds a {name}, not a {described['name']}")
    if ".py:" in name and not described and name not in trusted:
        raise ValueError(
            f"{weights.source} is of the network {name}: name that too, --network {name} (of a "
            "teacher --teacher-network), to let its code run"
        )
    if options:
        weights.config = weights.config | parse_options(name, options)
    weights.config.pop("pretrained", None)  # the weights are here
    try:
        # Before anything is allocated: a damaged config may describe a network of any size.
        own = blueprint(weights.config, most=10 * len(weights.state_dict)).state_dict()
        if described:
            count = weights.config["num_classes"]
            asked = blueprint({**weights.config, **described, "num_classes": count}).state_dict()
            if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in asked.items()}:
                raise ValueError(f"it holds {shown(weights.config)}, which is not {shown(described)}")
    except ValueError as error:
        raise ValueError(f"{weights.source}: {error}") from error
    check_fit(own, weights, weights.state_dict, weights.config)
    with WithoutDrawing():  # check_fit has seen that the file has every weight
        network = build_network(**weights.config, norm=norm)
    report = load_weights(network.eval(), weights)
    try:
        restore(network, weights.scales)
    except ValueError as error:
        raise ValueError(f"{weights.source}: {error}") from error
    report.int8 = len(int8_layers(network))
    return network, report


def load_program(
    path: Path, kind: str, described: Mapping, trusted: Collection[str]
) -> tuple[SegmentationNetwork, LoadReport]:
    """The network of a file that holds its program.

    Raises:
        ValueError: a program that could do more than compute and is not named, another network than described, or as
            ``ProgramNetwork``.
    """
    name = described.get("name", str(path))
    if Path(name) != path:
        raise ValueError(f"{path} holds a program of its own ({kind}), not a {name}")
    if runs_code(str(path)) and not described and str(path) not in trusted:
        raise ValueError(
            f"{path} is a program ({kind}), no weights alone: name it as the network, --network {path} (of a teacher "
            f"--teacher-network {path}), to let it run"
        )
    settings = {key: value for key, value in described.items() if key not in ("name", "num_classes")}
    network = ProgramNetwork(file=path, **settings)
    digests = [sha256_of(file) for file in network.files]
    digest = hashlib.sha256("".join(digests).encode()).hexdigest() if digests[1:] else digests[0]
    return network.eval(), LoadReport(kind, network.entries, [], [], None, digest, network.config)


def same_class(name: str, other: str) -> bool:
    """Whether two names are of one class in a file, which may have moved."""
    return ".py:" in name and ".py:" in other and Path(name).name == Path(other).name


def parse_options(name: str, words: Sequence[str]) -> dict:
    return parse_settings(network_class(name), words, name, HIDDEN)


def load_weights(
    network: nn.Module, source: str | os.PathLike | Mapping | Weights, skip_classifier: bool = False
) -> LoadReport:
    """Load our own or any released checkpoint into ``network``; of one that was trained for int8 the weights alone.

    Args:
        source: a path, a state dict (in our or the originals' key names), or what ``read_weights`` returned.
        skip_classifier: leave the entries whose shape depends on the class count at their initial values if the file
            has another class count.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unreadable or unsafe file, unknown family, or entries that are missing, left over, of another
            shape, of another kind or not finite; the message names them. The network is unchanged then.
    """
    weights = source if isinstance(source, Weights) else read_weights(source, network.config)
    own, given, left_out = network.state_dict(), weights.state_dict, set()
    if skip_classifier and weights.config and weights.config["num_classes"] != network.num_classes:
        left_out = class_dependent({key: value for key, value in network.config.items() if key != "depth"})
        given = {key: value for key, value in given.items() if key not in left_out}
    check_fit({key: value for key, value in own.items() if key not in left_out}, weights, given, network.config)
    network.load_state_dict(given, strict=False)
    without_subnormals(own[key] for key in given)
    return LoadReport(
        weights.family,
        sorted(given),
        [*weights.skipped, *sorted(left_out & weights.state_dict.keys())],
        [key for key in own if key not in given and not is_counter(key)],
        weights.normalization,
        weights.sha256,
        weights.config,
        weights.classes,
        weights.palette,
        weights.input_size,
        weights.counts_void,
    )


def without_subnormals(weights: Iterable[Tensor]) -> None:
    """Set to 0, in place, what is nearer to 0 than the smallest normal number: CPUs take many times as long for it.

    Weight decay leaves such weights in filters that nothing reads; ESPNet's releases are full of them.
    """
    for weight in weights:
        if weight.is_floating_point():
            weight[weight.abs() < torch.finfo(weight.dtype).tiny] = 0


def check_fit(own: Mapping[str, Tensor], weights: Weights, given: Mapping[str, Tensor], config: Mapping) -> None:
    """Raise ValueError if ``given``, entries of ``weights``, differ from ``own``, the network's of ``config``."""
    problems = [misfit for key in given.keys() & own.keys() if (misfit := compare(key, given[key], own[key]))]
    absent = [key for key in own if key not in given and not is_counter(key)]
    if not weights.config:
        absent = [key for key in absent if key.startswith("backbone.")]
    problems += [f"{key}: missing in the file" for key in absent]
    problems += [f"{key}: not in the network" for key in given if key not in own]
    if not problems:
        return
    more = f"\n  ... and {len(problems) - 12} more" if len(problems) > 12 else ""
    hint = ""
    if weights.config and weights.config["num_classes"] != config["num_classes"]:
        hint = f" (the file has {weights.config['num_classes']} classes, the network {config['num_classes']})"
    listed = "\n  ".join(sorted(problems)[:12])
    raise ValueError(f"{weights.source} ({weights.family}) does not fit {config['name']}{hint}:\n  {listed}{more}")


def compare(key: str, given: Tensor, own: Tensor) -> str:
    """Why an entry cannot replace ``own``; empty if it can."""
    if given.shape != own.shape:
        return f"{key}: {tuple(given.shape)} -> {tuple(own.shape)}"
    if given.dtype == torch.bool or given.is_complex() or (own.is_floating_point() and not given.is_floating_point()):
        return f"{key}: {given.dtype} where {own.dtype} belongs"
    values = given if given.dtype.itemsize > 1 else given.float()  # float8 has no reductions
    if not all_finite(values) or (values.dtype != own.dtype and not all_finite(values.to(own.dtype))):
        return f"{key}: not finite"
    if key.endswith("running_var") and (values < 0).any():
        return f"{key}: a variance below 0"
    return ""


def read_weights(
    source: str | os.PathLike | Mapping,
    described: Mapping | None = None,
    only_tensors: bool = False,
    entry: str | None = None,
) -> Weights:
    """Recognise a checkpoint by its keys and rename them to ours.

    Args:
        source: a path, ``hf://USER/REPO`` (``segdistill.network.weights.hub``) or a state dict.
        described: as in ``load_network``.
        only_tensors: skip objects that are neither tensor nor container.
        entry: which to take of several networks in one file.

    Raises: as ``load_weights``.
    """
    if isinstance(source, Mapping):
        return recognise(source, "the state dict", described, entry)
    path = Path(local_file(os.fspath(source)))
    weights = recognise(read_file(path, only_tensors=only_tensors), str(path), described, entry)
    weights.sha256 = digest_of(path)
    return weights


def digest_of(path: Path) -> str:
    """The SHA-256 of a file; of a file in parts, that of the index's and the parts'."""
    parts = parts_of(path)
    return hashlib.sha256("".join(map(sha256_of, [path, *parts])).encode()).hexdigest() if parts else sha256_of(path)


def describe(network: SegmentationNetwork) -> LoadReport:
    """The LoadReport of a network whose library fetched the weights; the checksum is that of its tensors."""
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode() + value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    family, _, _ = network.config["name"].partition(":")
    used = sorted(network.state_dict())
    return LoadReport(family, used, [], [], network.normalization, digest.hexdigest(), network.config, network.classes)


def convert(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    described: Mapping | None = None,
    entry: str | None = None,
    classes: Sequence[str] | None = None,
    normalization: Normalization | None = None,
) -> LoadReport:
    """Convert a recognised file, or a plain state dict whose network is described, to our own format.

    Reads tensors only: other objects of a pickle are skipped, and no code is run.

    Args:
        described: as in ``load_network``, needed if the file has no config; it overrides the file's.
        entry: which to take of several networks in one file.
        classes: their names.
        normalization: the input convention; needed if the file has none, overrides the file's.

    Raises: as ``load_network``, and ValueError if the names are not as many as the classes, or without an
        input convention.
    """
    weights = read_weights(source, described, only_tensors=True, entry=entry)
    if described and weights.config and weights.config["name"] != described["name"]:
        raise ValueError(f"{source} holds a {weights.config['name']}, not a {described['name']}")
    if described and weights.config:
        weights.config |= described
    weights.normalization = normalization or weights.normalization
    weights.classes = tuple(classes) if classes else weights.classes
    if weights.config and weights.classes and len(weights.classes) != weights.config["num_classes"]:
        raise ValueError(f"{source} has {weights.config['num_classes']} classes, not {len(weights.classes)}")
    if not weights.normalization:
        raise ValueError(f"{source} does not tell the colours that its network was trained with: give a normalization")
    loaded, report = load_network(weights)
    metadata = {"source_sha256": report.sha256} | ({"classes": report.classes} if report.classes else {})
    metadata |= {"palette": report.palette} if report.palette else {}
    metadata |= {"counts_void": True} if report.counts_void else {}
    atomic_save(export_weights(loaded, report.normalization, report.input_size, **metadata), output)
    return report


def export_weights(
    network: nn.Module, normalization: Normalization, input_size: tuple[int, int] | None = None, **metadata
) -> dict:
    """The content of ``best.pth``: a network's weights, its config and further ``metadata``, plain data.

    input_size: height and width of the network's input image; None for the image's size.

    A network with int8 convolutions leaves their scales under ``int8``, so that its weights load into a plain one.
    """
    state_dict = network.state_dict()
    scales = scales_of(state_dict)
    return {
        "format": "segdistill",
        "format_version": FORMAT_VERSION,
        "config": network.config,
        "normalization": astuple(normalization),
        "input_size": input_size,
        "state_dict": {key: value for key, value in state_dict.items() if key not in scales},
        **({"int8": scales} if scales else {}),
        **metadata,
    }


def atomic_save(content: Mapping, path: str | os.PathLike) -> None:
    """Write a checkpoint so that a kill or a full disk at any instant leaves the old file or the new one, whole.

    Raises:
        OSError: it could not be written; names the file, and leaves nothing half-written behind.
    """
    with replacing(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's writer turns a full disk into one
            raise (error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error))) from error


def all_finite(values: Tensor) -> bool:
    """Whether no value is infinite or nan. One pass; ``isfinite().all()`` takes 20 times as long on the CPU."""
    if not values.is_floating_point() or not values.numel():
        return True
    return bool(torch.stack(values.aminmax()).isfinite().all())


def not_finite(content: object, path: str = "") -> list[str]:
    """Paths in nested containers of tensors and numbers that are not finite."""
    if isinstance(content, Tensor):
        return [] if all_finite(content) else [path]
    if isinstance(content, float):
        return [] if math.isfinite(content) else [path]
    if isinstance(content, Mapping):
        pairs = content.items()
    elif isinstance(content, list | tuple):
        pairs = enumerate(content)
    else:
        return []
    return [place for key, value in pairs for place in not_finite(value, f"{path}/{key}" if path else str(key))]
