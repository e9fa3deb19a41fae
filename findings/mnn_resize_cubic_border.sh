#!/usr/bin/env bash
# MNN: the first row and the first column of an image that is enlarged bicubically are wrong.
#
# Expected: bicubic Resize with half_pixel coordinates (F.interpolate(mode="bicubic"), what PyTorch exports) as onnxruntime
#   and ONNX's reference compute it; at the border pixels outside repeat the nearest.
# Seen: the pixels whose place in the small image is left of or above its first pixel take the weights of another place:
#   the first row and column are off by as much as the values differ, all others are right to 3e-6. Enlarging twice or
#   thrice both show it; shrinking, align_corners and asymmetric do not. No message.
# Versions: mnn 3.6.1, onnx 1.23.2, numpy 2.4.6.
# Output, 7x9 values of variance 1 enlarged:
#   14x18: wrong rows [0], columns [0], by up to 2.4; the rest by 2e-07
#   21x27: wrong rows [0], columns [0], by up to 2.3; the rest by 3e-06
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install mnn==3.6.1 onnx==1.23.2 numpy==2.4.6
cd "$folder"
PATH=$folder/venv/bin:$PATH python - <<'PYTHON'
import subprocess

import MNN
import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

x = np.random.default_rng(0).normal(size=(1, 1, 7, 9)).astype(np.float32)
for height, width in ((14, 18), (21, 27)):
    words = {"mode": "cubic", "cubic_coeff_a": -0.75, "coordinate_transformation_mode": "half_pixel"}
    node = helper.make_node("Resize", ["x", "", "", "size"], ["y"], **words)
    size = helper.make_tensor("size", TensorProto.INT64, [4], [1, 1, height, width])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", x.shape), ("y", None))]
    graph = helper.make_graph([node], "graph", ends[:1], ends[1:], [size])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    expected = ReferenceEvaluator(model).run(None, {"x": x})[0]

    onnx.save(model, "model.onnx")
    command = "mnnconvert -f ONNX --modelFile model.onnx --MNNModel model.mnn --bizCode x --keepInputFormat 1".split()
    subprocess.run(command, check=True, capture_output=True)
    net = MNN.Interpreter("model.mnn")
    session = net.createSession()
    given = MNN.Tensor(x.shape, MNN.Halide_Type_Float, x.ravel().copy(), MNN.Tensor_DimensionType_Caffe)
    net.getSessionInput(session).copyFrom(given)
    net.runSession(session)
    zeros = np.zeros(expected.shape, np.float32)
    host = MNN.Tensor(zeros.shape, MNN.Halide_Type_Float, zeros, MNN.Tensor_DimensionType_Caffe)
    net.getSessionOutput(session).copyToHostTensor(host)

    off = np.abs(np.array(host.getNumpyData()) - expected)[0, 0]
    rows, columns = (np.flatnonzero((off > 1e-3).mean(axis) > 0.5).tolist() for axis in (1, 0))
    rest = off[1:, 1:].max()
    print(f"{height}x{width}: wrong rows {rows}, columns {columns}, by up to {off.max():.1f}; the rest by {rest:.0e}")
    assert rows == columns == [0], "the behaviour has changed"
    assert rest < 1e-5 < 1 < off.max(), "the behaviour has changed"
PYTHON
