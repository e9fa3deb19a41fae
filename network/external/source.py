"""Runs Python files of a user.

A file imports what lies beside it, whenever it does so, and the same names in two folders are two modules: every
folder is a package of its own here, and ``import blocks`` in a file of it is ``import PACKAGE.blocks`` if blocks.py is
there.
"""

import builtins
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

PREFIX = "segdistill_files_"


@functools.cache
def run_file(path: Path) -> ModuleType:
    """The module of a file; it is run once.

    Raises:
        ValueError: it is no Python, or something that it imports is not there. What its own code raises stays as it is.
    """
    name = f"{package_of(path.parent)}.{path.stem.replace('.', '_')}"
    if name in sys.modules:  # a file beside it has imported it
        return sys.modules[name]
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_file_location(name, path, loader=Loader(name, str(path)))
    )
    sys.modules[name] = module  # as an import does: dataclasses look themselves up there
    try:
        module.__spec__.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    finally:
        if sys.exc_info()[0]:
            del sys.modules[name]
    return module


def package_of(folder: Path) -> str:
    """The name of the package that a folder is."""
    name = PREFIX + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    if name not in sys.modules:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]
    return name


class Loader(SourceFileLoader):
    """Runs a module of such a package, with ``import_beside`` as its ``import``."""

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]
        module.__builtins__ = {**vars(builtins), "__import__": functools.partial(import_beside, package)}
        super().exec_module(module)


class Finder:
    """Finds the modules of such packages."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name.startswith(PREFIX) else None
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(name, spec.origin)
        return spec


sys.meta_path.insert(0, Finder)


def import_beside(
    package: str,
    name: str,
    globals: Mapping | None = None,
    locals: Mapping | None = None,
    fromlist: Sequence[str] = (),
    level: int = 0,
) -> ModuleType:
    """``builtins.__import__``, but a module that lies in the folder ``package`` comes before any other."""
    top = name.partition(".")[0]
    if level or not lies_in(package, top):
        return builtins.__import__(name, globals, locals, fromlist, level)
    module = importlib.import_module(f"{package}.{name}")
    if fromlist:
        return builtins.__import__(module.__name__, globals, locals, fromlist)
    return sys.modules[f"{package}.{top}"]


@functools.cache
def lies_in(package: str, top: str) -> bool:
    spec = PathFinder.find_spec(top, sys.modules[package].__path__)
    # A folder without __init__.py comes after any other module of its name, as in Python.
    return spec is not None and (spec.origin is not None or importlib.util.find_spec(top) is None)
