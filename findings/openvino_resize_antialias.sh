#!/usr/bin/env bash
# OpenVINO shrinks without antialiasing although the ONNX file asks for it.
#
# Expected: ONNX Resize with antialias=1 (opset 18; what F.interpolate(antialias=True) means) averages every source
#   pixel when it shrinks, or the converter refuses an attribute that it does not know.
# Seen: OpenVINO reads the file without a word and gives exactly the values of antialias=0, for linear and for cubic.
#   onnxruntime and ONNX's reference agree with each other and antialias. A network that shrinks its image or its maps
#   so sees aliased input once it is deployed.
# Versions: openvino 2026.4.1, onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6.
# Output, the largest difference on values 0..200:
#   linear: onnxruntime - reference 0.0000, OpenVINO - reference 50.8, OpenVINO - reference without antialias 0.0000
#   cubic: onnxruntime - reference 0.0000, OpenVINO - reference 85.5, OpenVINO - reference without antialias 0.0000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import numpy as np, onnxruntime, openvino
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

x = (np.random.default_rng(0).random((1, 1, 32, 32)) * 200).astype(np.float32)
def resize(mode, antialias):
    node = helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode=mode, antialias=antialias)
    sizes = helper.make_tensor("s", TensorProto.INT64, [4], [1, 1, 8, 8])
    x_info = helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)
    y_info = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 8, 8])
    return helper.make_model(helper.make_graph([node], "g", [x_info], [y_info], [sizes]),
                             opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
def gap(a, b): return float(np.abs(a - b).max())
for mode in ("linear", "cubic"):
    model = resize(mode, 1)
    reference = ReferenceEvaluator(model).run(None, {"x": x})[0]
    plain = ReferenceEvaluator(resize(mode, 0)).run(None, {"x": x})[0]
    ort = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    ov = core.compile_model(core.read_model(model.SerializeToString()), "CPU", hints)(x)[0]
    print(f"{mode}: onnxruntime - reference {gap(ort, reference):.4f}, OpenVINO - reference {gap(ov, reference):.1f}, "
          f"OpenVINO - reference without antialias {gap(ov, plain):.4f}")
    assert gap(ort, reference) < 0.01 and gap(ov, reference) > 10 and gap(ov, plain) < 0.01, "behaviour has changed"
PYTHON
