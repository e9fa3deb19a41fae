#!/usr/bin/env bash
# onnx.version_converter changes what a network computes, up (Resize of opset 10) and down (Softmax of opset 13).
#
# Expected: convert_version keeps the meaning of every operator, or raises for what the other opset cannot say.
# Seen: Softmax-12 flattens all that follows its axis, so Softmax-13 over the classes (axis=1) becomes one over classes
#   and pixels together, whose sum is 1 for the whole picture; LogSoftmax likewise. Resize-10 and Upsample-9 place
#   pixels as "asymmetric" does; the converter gives Resize-11 no coordinate_transformation_mode, whose default is
#   half_pixel, so the bilinear upsampling of an old file moves by part of a pixel. No warning, and the checker is
#   content.
# Versions: onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6.
# Output, the largest change:
#   Upsample, opset 9 -> 10: 0.0000
#   Upsample, opset 9 -> 18: 1.1087
#   Resize, opset 10 -> 18: 0.6739
#   Softmax, opset 11 -> 13: 0.0000
#   Softmax, opset 13 -> 12: 0.7679
#   LogSoftmax, opset 13 -> 12: 4.6254
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import numpy as np, onnx, onnxruntime
from onnx import TensorProto, helper, numpy_helper, version_converter

x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)

def run(model):
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]

def change(kind, before, after, factor=None, **attributes):
    names, scales, shape = ["x"], [], list(x.shape)
    if factor:
        names, shape = ["x", "s"], [1, 4, int(6 * factor), int(6 * factor)]
        scales = [numpy_helper.from_array(np.array([1, 1, factor, factor], np.float32), "s")]
    sizes = {"x": x.shape, "y": shape}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()]
    graph = helper.make_graph([helper.make_node(kind, names, ["y"], **attributes)], "g", ends[:1], ends[1:], scales)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", before)], ir_version=8)
    converted = version_converter.convert_version(model, after)
    assert converted.opset_import[0].version == after
    most = float(np.abs(run(converted) - run(model)).max())
    print(f"{kind}, opset {before} -> {after}: {most:.4f}")
    return most

right = [change("Upsample", 9, 10, 2, mode="linear")]
wrong = [change("Upsample", 9, 18, 2, mode="linear"), change("Resize", 10, 18, 1.5, mode="linear")]
right += [change("Softmax", 11, 13, axis=1)]
wrong += [change("Softmax", 13, 12, axis=1), change("LogSoftmax", 13, 12, axis=1)]
assert max(right) < 1e-5 and min(wrong) > 0.1, "the behaviour has changed"
PYTHON
