"""Networks of other libraries, and a user's own: ``torchvision:``, ``timm:``, ``smp:``, ``hf:`` and ``FILE.py:CLASS``.

One adapter a library, imported only when it is named.
"""

import functools
import importlib
import importlib.util
import sys
from pathlib import Path

from segdistill.network.base import SegmentationNetwork

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


def class_in_file(name: str, base: type = SegmentationNetwork) -> type:
    """The class derived from ``base`` that ``path/to/file.py:CLASS`` names; the file is run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it has no such class, or one that is not derived from ``base``.
    """
    file, _, class_name = name.rpartition(":")
    path = Path(file).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no file {path}")
    cls = getattr(_module(path), class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ValueError(f"{path} has no class {class_name} derived from {base.__name__}")
    return cls


@functools.cache
def _module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # for its imports from the same folder
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
