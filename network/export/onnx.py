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
    store_integers(model.graph)
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


def store_integers(graph: object) -> None:
    """Store weights that the graph rounds to int8 as int8, by ``Int8Conv2d`` symmetric, a scale for each channel."""
    from onnx import numpy_helper

    values = {entry.name: entry for entry in graph.initializer}
    readers = {node.input[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in values]:
        weight, scale = (numpy_helper.to_array(values[name]) for name in node.input[:2])
        levels = np.rint(weight * (1 / scale).reshape(-1, 1, 1, 1)).astype(np.int8)
        values[node.input[0]].CopyFrom(numpy_helper.from_array(levels, node.output[0]))
        del readers[node.output[0]].input[2]  # onnxruntime cannot replace a level of 0 that layers share
        graph.node.remove(node)


def read(path: Path) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is an error here
    options.intra_op_num_threads = torch.get_num_threads()
    # Without it int8 sums overflow on processors that have AVX2 but no VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds have no common base
        raise ValueError(f"{path} is no sound ONNX file: {str(error).splitlines()[0]:.200}") from error

    def run(images: np.ndarray) -> np.ndarray:
        return session.run(None, {"images": images})[0]

    metadata = metadata_of(session.get_modelmeta().custom_metadata_map, path)
    return Runner(run, metadata, f"onnxruntime {onnxruntime.__version__}")
