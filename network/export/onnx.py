"""ONNX, for onnxruntime, OpenVINO and OpenCV: any batch, height and width, weights inside, no paths."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from segdistill.libs.files import replacing
from segdistill.network.export.base import Deployed, Runner, graph_of, metadata_of

SUFFIX = ".onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-5


def write(module: Deployed, path: Path, metadata: Mapping[str, str]) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            graph_of(module),
            dynamo=True,
            input_names=["images"],
            output_names=[module.output],
            verbose=False,
        )
    model = program.model_proto
    forget_origin(model, module.output)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    with replacing(path) as file:
        file.write(model.SerializeToString(deterministic=True))


def forget_origin(model: object, output: str) -> None:
    """Remove the exporter's notes (stack traces, paths, module names) and name the sizes."""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        graph.doc_string = ""
        del graph.metadata_props[:]
        nodes = list(graph.node)
        values = [*getattr(graph, "value_info", ()), *getattr(graph, "initializer", ())]
        for entry in [*nodes, *values, *(graph.input if graph is model.graph else ()), *getattr(graph, "output", ())]:
            if hasattr(entry, "metadata_props"):
                del entry.metadata_props[:]
                entry.doc_string = ""
    del model.metadata_props[:]


def read(path: Path) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is an error here
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds have no common base
        raise ValueError(f"{path} is no sound ONNX file: {str(error).splitlines()[0]:.200}") from error

    def run(images: np.ndarray) -> np.ndarray:
        return session.run(None, {"images": images})[0]

    metadata = metadata_of(session.get_modelmeta().custom_metadata_map, path)
    return Runner(run, metadata, f"onnxruntime {onnxruntime.__version__}")
