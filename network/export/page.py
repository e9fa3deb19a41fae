"""A page for browsers that shows what networks answer to a picture or a camera: one file, which needs no server.

It holds ONNX files that answer classes or depth, and onnxruntime-web (Microsoft, MIT licence), which runs them on one
core.
"""

import base64
import gzip
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from segdistill.dataset.depth import DepthRange
from segdistill.libs.download import download
from segdistill.libs.files import replacing
from segdistill.libs.page import fill

SUFFIX = ".html"
RUNTIME = "onnxruntime-web-1.30.0.tgz"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/{RUNTIME}"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
PARTS = {"script": "ort.wasm.bundle.min.mjs", "wasm": "ort-wasm-simd-threaded.wasm"}


class Shown(NamedTuple):
    """An ONNX file, its number of parameters, and what it answers in colours (RGB, 0..255): names and colours of
    classes, or the range of depth and colours at equal steps of its logarithm, the nearest first."""

    file: Path
    parameters: int
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    depth: DepthRange | None = None


def write_page(networks: Mapping[str, Shown], path: str | os.PathLike, runtime: Path) -> None:
    """Write a page with networks side by side, by name.

    Args:
        runtime: onnxruntime-web's package, which is fetched if there is no such file.

    Raises:
        ValueError: the networks' classes, or their ranges of depth, differ, or ``runtime`` is another package.
        OSError: the package cannot be fetched, or the page cannot be written.
    """
    (first, one), *others = networks.items()
    for name, other in others:
        if (list(other.classes), other.depth) != (list(one.classes), one.depth):
            what = "ranges of depth" if other.depth and one.depth else "classes"
            raise ValueError(
                f"the {what} of {first} and {name} differ, so that they share no legend: make a page of each"
            )
    data = {
        "classes": list(one.classes),
        "palette": [list(color) for color in one.palette],
        "depth": one.depth and one.depth._asdict(),
        "networks": [
            {"name": name, "parameters": shown.parameters, "file": packed(shown.file.read_bytes())}
            for name, shown in networks.items()
        ],
        "runtime": {name: packed(content) for name, content in runtime_parts(runtime).items()},
    }
    with replacing(path, "w") as file:
        file.write(fill(Path(__file__).with_name("page.html"), data))


def runtime_parts(package: Path) -> dict[str, bytes]:
    """The script and the compiled program in onnxruntime-web's package."""
    with tarfile.open(download(URL, package, SHA256)) as archive:
        return {name: archive.extractfile(f"package/dist/{file}").read() for name, file in PARTS.items()}


def packed(content: bytes) -> str:
    """gzip in base64; equal for equal bytes."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()
