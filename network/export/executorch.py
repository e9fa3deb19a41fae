"""ExecuTorch (.pte), for phones: kernels of XNNPACK; one picture at a time, 32 to 1024 pixels a side."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from segdistill.network.export.base import EXAMPLE, Deployed, Runner, metadata_of

SUFFIX = ".pte"
PACKAGES = ("executorch",)
TOLERANCE = 1e-5
SIDES = {"min": 32, "max": 1024}  # memory is planned for the greatest
NOTES = "segdistill"  # the method that answers the metadata, as bytes


def write(module: Deployed, path: Path, metadata: Mapping[str, str]) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    sizes = {axis: torch.export.Dim.DYNAMIC(**SIDES) for axis in (2, 3)}
    example = torch.zeros(1, 3, *EXAMPLE, dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(module, (example,), dynamic_shapes={"images": sizes})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    notes = torch.tensor(list(json.dumps(metadata).encode()), dtype=torch.uint8)
    lowered = to_edge_transform_and_lower(
        program,
        partitioner=[XnnpackPartitioner()],
        constant_methods={NOTES: notes},
        compile_config=EdgeCompileConfig(_check_ir_validity=False),  # which refuses index_select
    )
    path.write_bytes(lowered.to_executorch().buffer)


def read(path: Path) -> Runner:
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime, Verification
    from executorch.version import __version__

    _unsafe_reset_threadpool(torch.get_num_threads())
    try:
        program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
        forward = program.load_method("forward")
        texts = {}
        if NOTES in program.method_names:
            texts = json.loads(bytes(program.load_method(NOTES).execute(())[0].tolist()))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is no sound ExecuTorch file: {str(error).splitlines()[0]:.200}") from error

    def run(images: np.ndarray) -> np.ndarray:
        answers = [forward.execute((torch.from_numpy(image[None]),))[0].numpy().copy() for image in images]
        return np.concatenate(answers)

    return Runner(run, metadata_of(texts, path), f"ExecuTorch {__version__}")
