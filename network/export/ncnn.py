"""ncnn, for phones (.ncnn.param, weights in a .ncnn.bin beside it), made by pnnx: one picture of any height and width.

ncnn takes float32 and has no layer for the best class of every pixel: pictures (3, H, W) of 0..255 go in as ``in0``,
and where the answer is classes, logits come out as ``out0``, whose greatest is the class.
"""

import hashlib
import json
import re
import subprocess
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from segdistill.network.export.base import EXAMPLE, LARGER, Deployed, Runner, graph_of, metadata_of

SUFFIX = ".ncnn.param"
PACKAGES = ("ncnn", "pnnx")
TOLERANCE = 1e-4
MAGIC = "7767517"  # first line of every .param


class Answer(torch.nn.Module):
    """What ncnn can give of the output."""

    def __init__(self, module: Deployed):
        super().__init__()
        self.module = module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.module.logits(images) if self.module.output == "classes" else self.module(images)


def write(module: Deployed, path: Path, metadata: Mapping[str, str]) -> None:
    import pnnx

    with tempfile.TemporaryDirectory() as folder:
        graph_of(module)  # refuses what depends on the values of a picture, where a trace would keep one branch
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of comparisons of sizes, which are the same at any size
            traced = torch.jit.trace(Answer(module), torch.zeros(1, 3, *EXAMPLE), check_trace=False)
        traced.save(str(Path(folder, "network.pt")))
        shapes = [f"inputshape{n}=[1,3,{size[0]},{size[1]}]f32" for n, size in (("", EXAMPLE), (2, LARGER))]
        command = [pnnx.EXEC_PATH, "network.pt", *shapes, "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"pnnx ends with {done.returncode}: {(done.stderr.splitlines() or [''])[-1]:.200}")
        layers, weights = (Path(folder, f"network.ncnn.{ending}").read_bytes() for ending in ("param", "bin"))
    # A layer of ncnn has a plain name; what pnnx could not convert keeps PyTorch's, such as Tensor.reshape.
    kinds = {line.split()[0] for line in layers.decode().splitlines()[2:]}
    if foreign := sorted(kind for kind in kinds if not re.fullmatch(r"\w+", kind)):
        raise ValueError(f"ncnn has no layer for {', '.join(foreign)}; the other formats may carry it")
    notes = {"metadata": metadata, "sha256": hashlib.sha256(layers + weights).hexdigest()}
    path.with_suffix(".bin").write_bytes(weights)
    path.write_bytes(layers + json.dumps(notes).encode() + b"\n")  # ncnn reads no further than its layers


def read(path: Path) -> Runner:
    import ncnn

    metadata = metadata_of(checked_notes(path), path)
    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise ValueError(f"{path} is no sound ncnn file: ncnn {ncnn.__version__} refuses it")

    def run(images: np.ndarray) -> np.ndarray:
        answers = []
        for image in images.astype(np.float32):
            extractor = net.create_extractor()
            extractor.input("in0", ncnn.Mat(image))  # which does not own the image
            code, answer = extractor.extract("out0")
            if code:
                raise RuntimeError(f"ncnn ends with {code}")
            answers.append(np.array(answer))
        answer = np.stack(answers)
        return answer.argmax(1).astype(np.uint8) if metadata["output"] == "classes" else answer

    return Runner(run, metadata, f"ncnn {ncnn.__version__}")


def checked_notes(path: Path) -> dict[str, str]:
    """The metadata behind the layers, none of a foreign file. ncnn itself may end the process on damaged files, so
    layers and weights must be those that were exported."""
    lines = path.read_bytes().splitlines(keepends=True)
    try:
        if lines[0].decode().strip() != MAGIC or len(lines) < 2 + (count := int(lines[1].split()[0])):
            raise ValueError("it ends before its last layer")
        layers, rest = b"".join(lines[: 2 + count]), b"".join(lines[2 + count :])
        notes = json.loads(rest or '{"metadata": {}}')
        if rest and hashlib.sha256(layers + path.with_suffix(".bin").read_bytes()).hexdigest() != notes["sha256"]:
            raise ValueError("its layers or weights are not those that were exported")
        return notes["metadata"]
    except (ValueError, LookupError, TypeError, OSError) as error:
        raise ValueError(f"{path} is no sound ncnn file: {error}") from error
