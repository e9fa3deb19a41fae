#!/usr/bin/env bash
# MNN's converter loses the axes of ReduceL2 and four more reductions of ONNX opset 18, and reduces over everything.
#
# Expected: since opset 18 the axes of a reduction are an input and no attribute; a converter reads them there, as it does
#   for ReduceSum and ReduceMean, or refuses the file.
# Seen: ReduceL1, ReduceL2, ReduceSumSquare, ReduceLogSum and ReduceLogSumExp give a single number, over channels and
#   pixels; the converter says nothing. With the attribute of opset 13 they are right. A feature map that is
#   normalised over its channels, as for cosine similarity, is divided by the norm of the whole map.
# Versions: mnn 3.6.1, onnx 1.23.2, numpy 2.4.6.
# Output, the shape of a reduction over the channels of (1, 2, 3, 4):
#   opset 18: right ReduceMax, ReduceMean, ReduceMin, ReduceProd, ReduceSum; (1, 1, 1, 1) of ReduceL1, ReduceL2,
#   ReduceLogSum, ReduceLogSumExp, ReduceSumSquare
#   opset 13: right ReduceL1, ReduceL2, ReduceLogSum, ReduceLogSumExp, ReduceSumSquare
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

LOST = ["ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"]
KEPT = ["ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"]


def model_of(operator, opset):
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    if opset == 18:
        node, constants = helper.make_node(operator, ["x", "axes"], ["y"], keepdims=1), [axes]
    else:
        node, constants = helper.make_node(operator, ["x"], ["y"], keepdims=1, axes=[1]), []
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 2, 3, 4]), ("y", None)))
    graph = helper.make_graph([node], "graph", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def answer_of_mnn(model, x):
    onnx.save(model, "model.onnx")
    command = "mnnconvert -f ONNX --modelFile model.onnx --MNNModel model.mnn --bizCode x --keepInputFormat 1".split()
    subprocess.run(command, check=True, capture_output=True)
    net = MNN.Interpreter("model.mnn")
    session = net.createSession()
    given = MNN.Tensor(x.shape, MNN.Halide_Type_Float, x.ravel().copy(), MNN.Tensor_DimensionType_Caffe)
    net.getSessionInput(session).copyFrom(given)
    net.runSession(session)
    output = net.getSessionOutput(session)
    shape = output.getShape()
    host = MNN.Tensor(shape, MNN.Halide_Type_Float, np.zeros(shape, np.float32), MNN.Tensor_DimensionType_Caffe)
    output.copyToHostTensor(host)
    return np.array(host.getNumpyData())


x = np.linspace(0.1, 2.4, 24, dtype=np.float32).reshape(1, 2, 3, 4)
for opset, operators in ((18, KEPT + LOST), (13, LOST)):
    right, other = [], {}
    for operator in operators:
        model = model_of(operator, opset)
        expected, given = ReferenceEvaluator(model).run(None, {"x": x})[0], answer_of_mnn(model, x)
        if given.shape == expected.shape and np.allclose(given, expected, rtol=1e-4):
            right.append(operator)
        else:
            other.setdefault(given.shape, []).append(operator)
    text = "; ".join(f"{shape} of {', '.join(names)}" for shape, names in other.items())
    print(f"opset {opset}: right {', '.join(right)}" + ("; " + text if text else ""))
    assert right == (KEPT if opset == 18 else LOST), "the behaviour has changed"
    assert other == ({(1, 1, 1, 1): LOST} if opset == 18 else {}), "the behaviour has changed"
PYTHON
