"""PyTorch's own exported programs (.pt2): any batch, height and width; needs torch alone."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from segdistill.libs.files import replacing
from segdistill.network.export.base import Deployed, Runner, graph_of, metadata_of

SUFFIX = ".pt2"
PACKAGES = ()
TOLERANCE = 1e-5
NOTES = "segdistill.json"  # the file in the archive that holds the metadata


def write(module: Deployed, path: Path, metadata: Mapping[str, str]) -> None:
    program = graph_of(module)
    program.example_inputs = None  # they would be kept in the file
    for graph in [program.graph_module, *program.graph_module.modules()]:
        for node in getattr(graph, "graph", torch.fx.Graph()).nodes:
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node"):
                node.meta.pop(key, None)
    archive = io.BytesIO()
    torch.export.save(program, archive, extra_files={NOTES: json.dumps(metadata)})
    with replacing(path) as file:
        file.write(archive.getvalue())


def read(path: Path) -> Runner:
    notes = {NOTES: ""}
    try:
        # Without its guards: PyTorch 2.11 writes one for AvgPool2d that lets only even or only odd sizes pass.
        program = torch.export.load(str(path), extra_files=notes).module(check_guards=False)
        texts = json.loads(notes[NOTES] or "{}")
    except Exception as error:  # whatever a damaged file leads the reader to
        raise ValueError(f"{path} is no sound .pt2 file: {str(error).splitlines()[0]:.200}") from error
    metadata = metadata_of(texts, path)

    @torch.no_grad()
    def run(images: np.ndarray) -> np.ndarray:
        return program(torch.from_numpy(np.ascontiguousarray(images))).numpy()

    return Runner(run, metadata, f"PyTorch {torch.__version__}")
