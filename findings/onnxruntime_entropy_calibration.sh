#!/usr/bin/env bash
# onnxruntime's entropy calibration is its min-max calibration, bit for bit: it cuts nothing off.
#
# Expected: CalibrationMethod.Entropy seeks the range with the least divergence, as TensorRT does, so that a single
#   outlier does not stretch the 256 levels over a range that nothing else uses.
# Seen: with one value of 60 among those of about -4 to 4, the steps of input and output are MinMax's to the last bit,
#   several times as coarse as the values need. The histogram has num_bins=128 by default, and num_quantized_bins=128, so
#   the whole range is the only candidate. quantize_static has no option for either; a calibrator made by hand, with
#   num_bins=2048, does cut the value off.
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6.
# Output, the step of the input's 256 levels:
#   MinMax 0.252918, Entropy 0.252918, Entropy with 2048 bins 0.031020
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6 sympy
cd "$folder"
venv/bin/python - 2> /dev/null <<'PYTHON' | tail -1    # the library prints its progress
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, create_calibrator, quantize_static

rng = np.random.default_rng(0)
weight = numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w")
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 32, 32]) for name, channels in (("x", 3), ("y", 4))]
graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)], "g", ends[:1], ends[1:], [weight])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "float.onnx")
images = [rng.standard_normal((1, 3, 32, 32)).astype(np.float32) for _ in range(8)]
images[0][0, 0, 0, 0] = 60

class Images(CalibrationDataReader):
    def __init__(self):
        self.left = iter(images)
    def get_next(self):
        image = next(self.left, None)
        return None if image is None else {"x": image}

def steps(method):
    quantize_static("float.onnx", "int8.onnx", Images(), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                    calibrate_method=method)
    values = {entry.name: entry for entry in onnx.load("int8.onnx").graph.initializer}
    return [float(numpy_helper.to_array(values[name])) for name in ("x_scale", "y_scale")]

widest, entropy = steps(CalibrationMethod.MinMax), steps(CalibrationMethod.Entropy)
by_hand = create_calibrator("float.onnx", calibrate_method=CalibrationMethod.Entropy, extra_options={"num_bins": 2048})
by_hand.collect_data(Images())
finer = float(np.ptp(by_hand.compute_data()["x"].range_value)) / 255
print(f"MinMax {widest[0]:.6f}, Entropy {entropy[0]:.6f}, Entropy with 2048 bins {finer:.6f}")
assert widest == entropy, "the behaviour has changed"
assert finer < widest[0] / 2, "the behaviour has changed"
PYTHON
