"""Loads the compiled kernels in place of the pure-PyTorch ones, if they match the sources."""

import logging
import os
import platform

import torch

from segdistill.libs.sources import SOURCES, library_path

BUILD = "python -m segdistill.libs build"


def load_kernels(device: str) -> str | None:
    """Load the kernels for "cpu" or "cuda" and return None, or say why the pure-PyTorch ones stay in use.

    Raises:
        ValueError: the environment variable SEGDISTILL_ABN is neither "auto" nor "python".
    """
    choice = os.environ.get("SEGDISTILL_ABN", "auto")
    if choice not in ("auto", "python"):
        raise ValueError(f"SEGDISTILL_ABN={choice!r}; known: auto, python")
    if choice == "python":
        return "SEGDISTILL_ABN=python"
    if device == "cuda" and torch.version.cuda is None:
        return "this PyTorch has no CUDA"
    if device == "cpu" and platform.machine() in ("x86_64", "AMD64") and "AVX" not in cpu_capability():
        return "the processor lacks AVX2"
    try:
        path = library_path(device)
        if not path.is_file():
            return f"not built from the present sources; {BUILD}"
        torch.ops.load_library(path)
    except (OSError, RuntimeError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        logging.getLogger(__name__).warning("in-place ABN runs in pure PyTorch on %s: %s", device, reason)
        return reason
    return None


def cpu_capability() -> str:
    return torch.backends.cpu.get_cpu_capability()


# Why a device's kernels are the pure-PyTorch ones; None where they are compiled.
FALLBACK = {device: load_kernels(device) for device in SOURCES}
