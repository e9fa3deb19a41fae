"""Files that hold a network with its program: TorchScript, torch.export (.pt2) and ONNX. They are frozen.

``logits`` and further maps that come out are features by their names; so are the maps of modules of a .pt2, by their
paths, and of an ONNX graph its inner tensors. Classes, channels, strides and image sizes are measured.
"""

import functools
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from segdistill.network.base import SegmentationNetwork
from segdistill.network.external.module import classes_of, measure, named_maps, reason, run_module, without_classes

SUFFIXES = (".onnx", ".pt", ".pt2", ".ts")


class Program(Protocol):
    """A file that is ready to run.

    size: (height, width) of its images; None if the file does not say. singly: its batch is of one image. entries: the
    names of its weights. files: it and the files that it reads its weights from.
    """

    size: tuple[int, int] | None
    singly: bool
    entries: list[str]
    files: list[Path]

    def __call__(self, images: Tensor, wanted: Collection[str] | None) -> dict[str, Tensor]:
        """What comes out as ``named_maps`` has it, and the maps in ``wanted`` (None: all) of images (N, 3, H, W)."""


class ProgramNetwork(SegmentationNetwork):
    """The network of a file; it has no weights to train.

    Args:
        has_classes: whether the channels of what comes out first are classes, true or false

    Raises:
        ValueError: a damaged file, or a network that does not take images (N, 3, H, W) alone.
    """

    NO_CLASSES = "--teacher-options has_classes=false"

    def __init__(self, num_classes: int | None = None, *, file: str | Path, has_classes: bool = True):
        super().__init__()
        path = Path(file)
        kind = kind_of_file(path)
        try:
            program = PROGRAMS[kind](path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        except Exception as error:  # damaged bytes break a reader in any way
            raise ValueError(f"{path} cannot be read as {kind}: {reason(error)}") from error
        self.kind, self.program, self.files, self.entries = kind, program, program.files, program.entries
        # Tells callers of a network without parameters where it is, and follows ``to``.
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)
        with torch.no_grad():
            run = functools.partial(program, wanted=None)
            self.features, self.fit = measure(run, str(path), program.size, program.singly)
        self.num_classes, self.features = classes_of(self.features, has_classes)
        self.config = {"name": str(file), "num_classes": self.num_classes}

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        try:
            maps = self.fit.apply(functools.partial(self.program, wanted=wanted), images)
        except Exception as error:  # a program breaks in any way
            height, width = images.shape[2:]
            raise ValueError(f"{self.config['name']} fails on images of {height}x{width}: {reason(error)}") from error
        return maps if self.num_classes else without_classes(maps)


def kind_of_file(path: Path) -> str | None:
    """What a file holds by its content: a key of ``PROGRAMS``; None for anything else."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(2)
    if head == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except Exception:  # damaged bytes break a reader in any way
            return None
        ends = {name.partition("/")[2] for name in names}
        if "archive_format" in ends or "serialized_exported_program.json" in names:
            return "torch.export"
        return "TorchScript" if "constants.pkl" in ends else None
    # ONNX has no signature: its first field is a small version number, its second a text, the name of the exporter.
    return "ONNX" if head[:1] == b"\x08" and (path.suffix == ".onnx" or is_onnx(path)) else None


def is_onnx(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(3)
    return head[1:2] < b"\x20" and head[2:3] == b"\x12"


def has_program(name: str) -> bool:
    """Whether a network's name is that of such a file.

    Raises:
        FileNotFoundError, ValueError: it has the suffix of one, and is not there or is none.
    """
    path = Path(name)
    if kind_of_file(path):
        return True
    if path.suffix in SUFFIXES and not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if path.suffix in SUFFIXES:
        raise ValueError(
            f"{path} holds no program of {', '.join(PROGRAMS)}: if it holds weights alone, it is --T_ckpt_path {path}, "
            "and --teacher-network names their network"
        )
    return False


def runs_code(name: str) -> bool:
    """Whether to build the network of this name is to run code that comes with it; ONNX holds operators alone."""
    return ".py:" in name or kind_of_file(Path(name)) in ("TorchScript", "torch.export")


class TorchScript:
    """A scripted or traced module."""

    size, singly = None, False

    def __init__(self, path: Path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the format is an old one
            self.model = torch.jit.load(path, map_location="cpu").eval()
        inputs = [a.name for a in self.model.forward.schema.arguments[1:] if not a.has_default_value()]
        check_inputs(inputs)
        self.files, self.entries = [path], sorted(self.model.state_dict())

    def __call__(self, images: Tensor, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        return named_maps(self.model.to(images.device)(images))


class ExportedProgram:
    """A graph of torch.export; its modules are kept."""

    def __init__(self, path: Path):
        with path.open("rb") as file:  # by its name torch wants .pt2
            self.program = torch.export.load(file)
        inputs = self.program.graph_signature.user_inputs
        check_inputs(list(inputs))
        (shape,) = [node.meta["val"].shape for node in self.program.graph.nodes if node.name == inputs[0]]
        self.size, self.singly = check_shape([side if isinstance(side, int) else None for side in shape])
        self.files, self.entries = [path], sorted(self.program.state_dict)
        self.device, self.model = torch.device("cpu"), torch.export.unflatten(self.program)

    def __call__(self, images: Tensor, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        if images.device != self.device:  # constants in the graph are of a device, too
            program = move_to_device_pass(self.program, str(images.device))
            self.device, self.model = images.device, torch.export.unflatten(program)
        return run_module(self.model, images, wanted)


class ONNX:
    """A graph that onnxruntime runs: on the CPU, or on a GPU if it is built for that."""

    def __init__(self, path: Path):
        try:
            import onnx
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ValueError(f"it needs {error.name}, which is not installed: pip install segdistill[onnx]") from None
        self.model = onnx.load(path)
        graph = self.model.graph
        weights = {weight.name for weight in graph.initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        check_inputs([value.name for value in inputs])
        kind = inputs[0].type.tensor_type
        self.size, self.singly = check_shape([dim.dim_value or None for dim in kind.shape.dim])
        self.input, self.dtype = inputs[0].name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        self.outputs = [value.name for value in graph.output]
        floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        self.inner = [
            value.name
            for value in onnx.shape_inference.infer_shapes(self.model).graph.value_info
            if value.type.tensor_type.elem_type in floats and len(value.type.tensor_type.shape.dim) == 4
            if value.name not in self.outputs
        ]
        stored = onnx.load(path, load_external_data=False).graph.initializer  # says where its data are
        beside = {entry.value for weight in stored for entry in weight.external_data if entry.key == "location"}
        self.files = [path, *(path.with_name(name) for name in sorted(beside))]
        self.entries = sorted(weights)
        self.runtime, self.sessions = onnxruntime, {}

    def __call__(self, images: Tensor, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        inner = [name for name in self.inner if wanted is None or name in wanted]
        if wanted is not None:
            self.sessions.pop("all", None)  # of the measurement; it keeps every map
        session = self.session(images.device, inner, "all" if wanted is None else (images.device, *inner))
        names = [*self.outputs, *inner]
        values = session.run(names, {self.input: images.cpu().numpy().astype(self.dtype)})
        maps = {name: torch.from_numpy(value).to(images) for name, value in zip(names, values, strict=True)}
        maps = {name: value for name, value in maps.items() if value.ndim == 4}
        main = next((name for name in ("logits", "out", *self.outputs) if name in maps), None)
        return maps if main is None else {"logits": maps.pop(main), **maps}

    def session(self, device: torch.device, inner: Collection[str], key: object):
        """A session, kept by ``key``, that gives inner tensors too; they are not fused with what follows."""
        if key not in self.sessions:
            model = type(self.model)()
            model.CopyFrom(self.model)
            for name in inner:
                model.graph.output.add(name=name)
            options = self.runtime.SessionOptions()
            options.log_severity_level = 4  # what fails is an error here
            providers = ["CPUExecutionProvider"]
            if device.type == "cuda" and "CUDAExecutionProvider" in self.runtime.get_available_providers():
                providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
            self.sessions[key] = self.runtime.InferenceSession(model.SerializeToString(), options, providers=providers)
        return self.sessions[key]


PROGRAMS: Mapping[str, type[Program]] = {"ONNX": ONNX, "TorchScript": TorchScript, "torch.export": ExportedProgram}


def check_inputs(names: list[str]) -> None:
    """Raise ValueError unless there is one input."""
    if len(names) != 1:
        raise ValueError(f"its network takes {', '.join(names) or 'nothing'}: export one that takes images alone")


def check_shape(shape: list[int | None]) -> tuple[tuple[int, int] | None, bool]:
    """The fixed image size, if there is one, and whether the batch is of one image; of an input's shape, None unknown.

    Raises:
        ValueError: no shape of images (N, 3, H, W), or a fixed batch of several.
    """
    if not shape:  # not told
        return None, False
    if len(shape) != 4 or shape[1] not in (3, None):
        words = ", ".join("?" if side is None else str(side) for side in shape)
        raise ValueError(f"its network takes ({words}), not images (N, 3, H, W): export one that does")
    batch, _, height, width = shape
    if batch not in (1, None):
        raise ValueError(f"its network takes {batch} images at a time: export it for one, or for any number")
    size = None if height is width is None else (height or width, width or height)
    return size, batch == 1
