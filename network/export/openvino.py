"""OpenVINO's IR (.xml, weights in a .bin beside it), float32, made from the ONNX graph."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from segdistill.network.export import onnx
from segdistill.network.export.base import Deployed, Runner, metadata_of

SUFFIX = ".xml"
PACKAGES = ("onnx", "onnxscript", "openvino")
TOLERANCE = 1e-5
NOTES = "segdistill"  # the entry of the runtime information that holds the metadata


def write(module: Deployed, path: Path, metadata: Mapping[str, str]) -> None:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        onnx.write(module, Path(folder, "graph.onnx"), {})
        model = openvino.convert_model(str(Path(folder, "graph.onnx")))
        for index, operation in enumerate(model.get_ordered_ops()):
            if operation.get_type_name() not in ("Parameter", "Result"):
                operation.set_friendly_name(f"{operation.get_type_name()}_{index}")  # else numbered by the process
        model.set_rt_info(json.dumps(metadata), [NOTES])
        path.parent.mkdir(parents=True, exist_ok=True)
        openvino.save_model(model, str(Path(folder, path.name)), compress_to_fp16=False)
        for suffix in (".bin", ".xml"):  # the .xml last: it names the other
            Path(folder, path.name).with_suffix(suffix).rename(path.with_suffix(suffix))


def read(path: Path) -> Runner:
    import openvino

    try:
        model = openvino.Core().read_model(str(path))
        # Processors with bfloat16 would compute in it, and change classes.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        compiled = openvino.compile_model(model, "CPU", settings)
        texts = json.loads(model.get_rt_info([NOTES]).astype(str)) if model.has_rt_info([NOTES]) else {}
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is no sound OpenVINO file: {str(error).splitlines()[0]:.200}") from error

    def run(images: np.ndarray) -> np.ndarray:
        return compiled(images)[0]

    return Runner(run, metadata_of(texts, path), f"OpenVINO {openvino.__version__.partition('-')[0]}")
