"""Networks of other libraries, and a user's own: ``torchvision:``, ``timm:``, ``smp:``, ``hf:``, ``FILE.py:CLASS``, and
networks in files that hold their program too (``program.py``).

One adapter a library, imported only when it is named.
"""

import importlib
import inspect
from pathlib import Path

from torch import nn

from segdistill.network.base import SegmentationNetwork
from segdistill.network.external.module import adapter_for
from segdistill.network.external.source import run_file

# Prefix of a network's name: its package and its adapter's class.
LIBRARIES = {
    "hf": ("transformers", "HuggingFaceNetwork"),
    "smp": ("segmentation_models_pytorch", "SMPNetwork"),
    "timm": ("timm", "TimmBackbone"),
    "torchvision": ("torchvision", "TorchvisionNetwork"),
}


def adapter_of(library: str) -> type[SegmentationNetwork]:
    """The adapter of one of ``LIBRARIES``. Raises ValueError if the library is not installed."""
    package, adapter = LIBRARIES[library]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ValueError(
            f"{library}: needs {package}, which is not installed: pip install segdistill[{library}]"
        ) from None
    return getattr(importlib.import_module(f"{__name__}.{library}"), adapter)


def network_in_file(name: str) -> type[SegmentationNetwork]:
    """The network that ``path/to/file.py:CLASS`` names; the file is run.

    Any class derived from torch.nn.Module will do, and any function that returns one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it has no such class, or cannot be run.
    """
    made = object_in_file(name)
    if isinstance(made, type) and issubclass(made, SegmentationNetwork):
        return made
    if inspect.isfunction(made) or (isinstance(made, type) and issubclass(made, nn.Module)):
        return adapter_for(made)
    path, _, wanted = name.rpartition(":")
    raise ValueError(f"{path} has no class {wanted} derived from torch.nn.Module{classes_in(path, nn.Module)}")


def class_in_file(name: str, base: type) -> type:
    """The class derived from ``base`` that ``path/to/file.py:CLASS`` names; the file is run. Raises: as above."""
    cls = object_in_file(name)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        path, _, wanted = name.rpartition(":")
        raise ValueError(f"{path} has no class {wanted} derived from {base.__name__}{classes_in(path, base)}")
    return cls


def object_in_file(name: str) -> object:
    """What a file calls by a name; None if nothing."""
    file, _, wanted = name.rpartition(":")
    path = Path(file).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no file {path}")
    return getattr(run_file(path), wanted, None)


def classes_in(path: str, base: type) -> str:
    """The classes derived from ``base`` that a file defines, for an error."""
    module = run_file(Path(path).resolve())
    names = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    ]
    return f"; it has {', '.join(names)}" if names else ""
