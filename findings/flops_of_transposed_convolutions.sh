#!/usr/bin/env bash
# thop and torchinfo count a transposed convolution of stride 2 four times.
#
# Expected: a transposed convolution multiplies every pixel of its input with the kernel once: input pixels x channels in x
#   channels out x kernel. Tools that count multiplications agree on it, as they do on a convolution.
# Seen: thop and torchinfo multiply the pixels of the output by the kernel, as for a convolution, which is stride^2 times
#   as much: 4 times for the usual decoder, 16 times for stride 4. torch's own counter and fvcore are right, ptflops but
#   for the bias. Decoders of ESPNet, U-Net or GANs look several times as costly, those that upsample do not.
# Versions: thop 0.1.1.post2209072238, torchinfo 1.8.0, ptflops 0.7.5, fvcore 0.1.5.post20221221, torch 2.14.1, numpy 2.4.6.
# Output, 16 to 16 channels, kernel 4, stride 2, 32x32, in millions of multiplications (true 4.19):
#   torch 4.19, fvcore 4.19, ptflops 4.19, thop 16.78, torchinfo 16.78
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6 thop==0.1.1.post2209072238 torchinfo==1.8.0 ptflops==0.7.5 \
    fvcore==0.1.5.post20221221
"$folder/venv/bin/python" - <<'PYTHON'
import logging

import ptflops
import thop
import torch
import torchinfo
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

logging.disable()
layer, x = nn.ConvTranspose2d(16, 16, 4, 2, 1, bias=False), torch.randn(1, 16, 32, 32)
with FlopCounterMode(display=False) as counter:
    layer(x)
counts = {
    "torch": counter.get_total_flops() / 2,
    "fvcore": FlopCountAnalysis(layer, x).total(),
    "ptflops": ptflops.get_model_complexity_info(layer, (16, 32, 32), as_strings=False, print_per_layer_stat=False)[0],
    "thop": thop.profile(layer, (x,), verbose=False)[0],
    "torchinfo": torchinfo.summary(layer, input_data=x, verbose=0).total_mult_adds,
}
print(", ".join(f"{name} {count / 1e6:.2f}" for name, count in counts.items()))
true = 32 * 32 * 16 * 16 * 4 * 4
assert counts["torch"] == counts["fvcore"] == counts["ptflops"] == true, "the behaviour has changed"
assert counts["thop"] == counts["torchinfo"] == 4 * true, "the behaviour has changed"
PYTHON
