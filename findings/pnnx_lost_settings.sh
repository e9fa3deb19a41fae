#!/usr/bin/env bash
# pnnx writes ncnn files that pad with zeros for circular padding, and that normalise by another norm or along another axis.
#
# Expected: what ncnn's layers cannot say is refused, as pnnx does for many operations: their layers keep PyTorch's names,
#   and ncnn does not load them.
# Seen: F.pad(mode="circular") becomes a Padding of zeros, and so does padding_mode="circular" of a convolution;
#   F.normalize becomes a Normalize over the channels with the Euclidean norm, whatever p and dim are. Both files load
#   and run, and exit codes are 0. reflect and replicate are right, and so is F.normalize over the channels.
# Versions: pnnx 20261020, ncnn 1.0.20261020, torch 2.14.1, numpy 2.4.6.
# Output, the largest difference from PyTorch behind a convolution:
#   pad reflect 0.00, pad circular 3.20, convolution replicate 0.00, convolution circular 0.79
#   normalize channels 0.00, normalize rows 0.73, normalize channels p=1 0.32
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6 pnnx==20261020 ncnn==1.0.20261020
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import subprocess

import ncnn
import numpy as np
import pnnx
import torch
import torch.nn.functional as F
from torch import nn


class Network(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.first, self.layer = nn.Conv2d(3, 3, 1), layer

    def forward(self, x):
        return self.layer(self.first(x))


@torch.no_grad()
def difference(layer):
    network, x = Network(layer).eval(), torch.randn(1, 3, 7, 9)
    torch.jit.trace(network, x, check_trace=False).save("network.pt")
    command = [pnnx.EXEC_PATH, "network.pt", "inputshape=[1,3,7,9]f32", "fp16=0"]
    subprocess.run(command, check=True, capture_output=True)
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    assert net.load_param("network.ncnn.param") == net.load_model("network.ncnn.bin") == 0
    extractor, image = net.create_extractor(), x[0].numpy().copy()
    extractor.input("in0", ncnn.Mat(image).clone())
    code, answer = extractor.extract("out0")
    assert code == 0
    return np.abs(np.array(answer) - network(x)[0].numpy()).max()


torch.manual_seed(0)
layers = {
    "pad reflect": lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"),
    "pad circular": lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"),
    "convolution replicate": nn.Conv2d(3, 4, 3, padding=1, padding_mode="replicate"),
    "convolution circular": nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
    "normalize channels": lambda x: F.normalize(x, dim=1),
    "normalize rows": lambda x: F.normalize(x, dim=2),
    "normalize channels p=1": lambda x: F.normalize(x, p=1, dim=1),
}
found = {name: difference(layer) for name, layer in layers.items()}
texts = [f"{name} {value:.2f}" for name, value in found.items()]
print(", ".join(texts[:4]) + "\n" + ", ".join(texts[4:]))
for name, value in found.items():
    if name in ("pad circular", "convolution circular", "normalize rows", "normalize channels p=1"):
        assert value > 0.1, "the behaviour has changed"
    else:
        assert value < 1e-3, "the behaviour has changed"
PYTHON
