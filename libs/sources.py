"""Paths of the compiled kernels, with a digest of their sources; needs no torch, for libs/build.sh."""

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = {"cpu": ("abn.h", "ops.h", "abn_cpu.cpp"), "cuda": ("abn.h", "ops.h", "abn_cuda.cu")}


def library_path(device: str) -> Path:
    """Path of the built kernels for "cpu" or "cuda"."""
    digest = hashlib.sha256(b"".join((FOLDER / "src" / name).read_bytes() for name in SOURCES[device]))
    return FOLDER / f"_C_{device}_{digest.hexdigest()[:12]}.so"
