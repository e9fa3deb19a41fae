#!/usr/bin/env bash
# OpenVINO divides by another number at the border of an AveragePool with ceil_mode=1 and count_include_pad=1.
#
# Expected: the three runtimes agree: the declared padding counts in the divisor; what ceil_mode adds beyond it does not
#   (as in torch.nn.AvgPool2d(3, 2, 1, ceil_mode=True), whose count_include_pad is true by default).
# Seen: onnxruntime and ONNX's reference do so. OpenVINO divides by the whole 9 in the windows that leave the
#   padded map, so its last row and column are too small; all else agrees. With ceil_mode=0 all agree.
# Versions: openvino 2026.4.1, onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6.
# Output (a map of ones, its last row):
#   ceil_mode=0, all three: [0.667, 1.0, 1.0]
#   ceil_mode=1 reference, onnxruntime: [0.333, 0.5, 0.5, 0.25]
#   ceil_mode=1 OpenVINO: [0.222, 0.333, 0.333, 0.111]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import numpy as np, onnxruntime, openvino
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

x = np.ones((1, 1, 6, 6), np.float32)
for ceil in (0, 1):
    node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1],
                            count_include_pad=1, ceil_mode=ceil)
    side = 3 + ceil
    x_info = helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)
    y_info = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, side, side])
    model = helper.make_model(helper.make_graph([node], "g", [x_info], [y_info]),
                              opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    data, core = model.SerializeToString(), openvino.Core()
    reference = ReferenceEvaluator(model).run(None, {"x": x})[0]
    ort = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    ov = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]
    for name, answer in (("reference", reference), ("onnxruntime", ort), ("OpenVINO", ov)):
        print(f"ceil_mode={ceil} {name}:", [round(float(value), 3) for value in answer[0, 0, -1]])
    inside = np.abs(ov - ort)[..., :3, :3].max()
    assert np.allclose(ort, reference) and inside < 1e-6 and np.allclose(ov, ort) == (not ceil), "behaviour has changed"
PYTHON
