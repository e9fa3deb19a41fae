"""Export: a network as a file that other runtimes run. One file a format; a format is registered by an entry here."""

import importlib.util
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from segdistill.libs.files import replacing
from segdistill.network.base import SegmentationNetwork
from segdistill.network.export import executorch, ncnn, onnx, openvino, torch_export
from segdistill.network.export.base import (
    INT8_TOLERANCE,
    OUTPUTS,
    Deployed,
    Difference,
    Format,
    Output,
    Runner,
    compare,
    reason_of,
    sample_pictures,
    text_of,
)
from segdistill.network.int8 import float_layers, int8_layers
from segdistill.network.weights.checkpoint import LoadReport

FORMATS: dict[str, Format] = {
    "onnx": onnx,
    "openvino": openvino,
    "pt2": torch_export,
    "ncnn": ncnn,
    "executorch": executorch,
}

__all__ = [
    "FORMATS",
    "OUTPUTS",
    "Difference",
    "Runner",
    "deploy",
    "export_network",
    "format_of",
    "is_exported",
    "open_exported",
]


def format_of(path: str | os.PathLike, name: str | None = None) -> Format:
    """The format named, or that of a file's ending.

    Raises:
        ValueError: none has that ending, or its packages are not installed; says what to install.
    """
    name = name or next((key for key, format in FORMATS.items() if ends_with(path, format.SUFFIX)), None)
    if name not in FORMATS:
        known = ", ".join(f"{format.SUFFIX} ({key})" for key, format in FORMATS.items())
        raise ValueError(f"{path}: no format has this ending; known: {known}")
    missing = [package for package in FORMATS[name].PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}, not installed here: pip install segdistill[{name}]")
    return FORMATS[name]


def ends_with(path: str | os.PathLike, suffix: str) -> bool:
    return str(path).lower().endswith(suffix)


def is_exported(path: str | os.PathLike) -> bool:
    """Whether a file has the ending of an exported one."""
    return any(ends_with(path, format.SUFFIX) for format in FORMATS.values())


def export_network(
    network: SegmentationNetwork,
    report: LoadReport,
    path: str | os.PathLike,
    *,
    name: str | None = None,
    output: Output | None = None,
    scores: Mapping | None = None,
    pictures: Iterable[Tensor] | None = None,
    calibration: Mapping | None = None,
) -> list[Difference]:
    """Write a loaded network to ``path``, once the file answers as the network does.

    A network with int8 convolutions (``segdistill.network.int8``) leaves as an ONNX graph of integers.

    Args:
        report: of its weights; names, colours, input convention and size go into the file.
        name: of the format; None: by the ending of ``path``.
        output: None: classes, or depth of a network of depth.
        scores: figures to keep in the file.
        pictures: (3, H, W) uint8, that are compared; None: smooth random ones of three sizes.
        calibration: what to say in the file of how it became int8.

    Returns:
        The differences on the pictures.

    Raises:
        ValueError: as ``format_of``; a network without classes or input convention, or that the format cannot carry;
            an exported file that answers otherwise: nothing is left of it.
    """
    path, kind = Path(path), format_of(path, name)
    check_writable(path)
    module = deploy(network, report, output)
    num_int8 = len(int8_layers(network))
    if num_int8 and kind is not onnx:
        raise ValueError(f"int8 can be exported to .onnx alone, not to {kind.SUFFIX}")
    metadata = describe_export(module, report, scores, calibration)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder, f"network{kind.SUFFIX}")
        try:
            kind.write(module, draft, text_of(metadata))
            runner = kind.read(draft)
            differences = compare(module, runner, sample_pictures() if pictures is None else pictures, kind.TOLERANCE)
        except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
            raise ValueError(f"{kind.SUFFIX} cannot carry {report.config['name']}: {reason_of(error)}") from error
        wrong = [one for one in differences if one.changed or (one.largest or 0) > kind.TOLERANCE]
        if num_int8 and sum(one.changed for one in wrong) <= INT8_TOLERANCE * sum(one.pixels for one in differences):
            wrong = []
        if wrong:
            raise ValueError(
                f"{path} would answer otherwise than the network and is not written: at {wrong[0].size} "
                f"{wrong[0].changed} of {wrong[0].pixels} pixels change their class, the largest difference is "
                f"{wrong[0].largest}"
            )
        for file in sorted(Path(folder).iterdir()):  # .bin before .xml
            with replacing(path if file == draft else path.with_suffix(file.suffix)) as target:
                target.write(file.read_bytes())
    return differences


def describe_export(
    module: Deployed, report: LoadReport, scores: Mapping | None, calibration: Mapping | None
) -> dict[str, object]:
    """What the file says of itself: classes, colours, where it is from; of int8 what stayed in float."""
    network = module.network
    return {
        "output": module.output,
        "classes": report.classes,
        "palette": report.palette,
        "num_classes": network.num_classes,
        "counts_void": report.counts_void,
        "depth": network.depth and list(network.depth),
        "network": report.config["name"],
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "source_sha256": report.sha256,
        "scores": scores,
        "int8": {"float": sorted(float_layers(network)), **(calibration or {})} if int8_layers(network) else None,
    }


def deploy(network: SegmentationNetwork, report: LoadReport, output: Output | None = None) -> Deployed:
    """A loaded network with all that is around it; ``output`` as in ``export_network``.

    Raises:
        ValueError: it has not what is asked for, or no known input convention.
    """
    if network.depth is not None:
        if output not in (None, "depth"):
            raise ValueError(f"the network answers in depth, not in {output}: leave --answer {output} out")
        output = "depth"
    elif not network.num_classes or output == "depth":
        raise ValueError(f"the network has no {'depth' if output == 'depth' else 'classes'} to export")
    if report.normalization is None:
        raise ValueError("its input convention is not known: python -m segdistill.network convert --normalization NAME")
    return Deployed(network, report.normalization, report.input_size, output or "classes").eval().requires_grad_(False)


def check_writable(path: Path) -> None:
    """Raise ValueError if a file cannot be written there; missing folders are made when it is."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise ValueError(f"{path} cannot be written: {parent} is {'read-only' if parent.is_dir() else 'no folder'}")


def open_exported(path: str | os.PathLike) -> Runner:
    """Open an exported file by its ending. Raises: FileNotFoundError, and ValueError as ``format_of``."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no exported file {path}")
    return format_of(path).read(Path(path))
