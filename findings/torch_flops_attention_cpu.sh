#!/usr/bin/env bash
# torch.utils.flop_counter: attention on the CPU costs nothing, and a transformer in eval mode costs nothing at all.
#
# Expected: scaled_dot_product_attention is two products of matrices, whichever kernel computes it; a layer costs the same
#   in training and evaluation.
# Seen: the kernel that CPUs use has no formula, so attention counts 0 there, with and without gradient. On the meta device
#   and with the kernel "math" it is right. A TransformerEncoderLayer in eval mode under no_grad is one fused operation,
#   which has no formula either: 0 for its linear layers, too. Nothing warns, and the count of a segmentation
#   transformer depends on the device, and on train() or eval().
# Versions: torch 2.14.1, numpy 2.4.6.
# Output, GFLOPs:
#   attention: cpu 0.000, math 0.537, meta 0.537
#   TransformerEncoderLayer: train 1.678, eval 0.000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def flops(call, *inputs):
    with FlopCounterMode(display=False) as counter:
        call(*inputs)
    return counter.get_total_flops() / 1e9


x = torch.randn(2, 4, 1024, 16)
found = {"cpu": flops(F.scaled_dot_product_attention, x, x, x)}
with sdpa_kernel(SDPBackend.MATH):
    found["math"] = flops(F.scaled_dot_product_attention, x, x, x)
found["meta"] = flops(F.scaled_dot_product_attention, *[x.to("meta")] * 3)
print("attention: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
layer, tokens = nn.TransformerEncoderLayer(64, 4, batch_first=True), torch.randn(2, 1024, 64)
train, evaluation = flops(layer.train(), tokens), flops(layer.eval(), tokens)
print(f"TransformerEncoderLayer: train {train:.3f}, eval {evaluation:.3f}")
assert found["math"] == found["meta"] == 2 * 2 * 2 * 4 * 1024 * 1024 * 16 / 1e9, "the behaviour has changed"
assert found["cpu"] == 0, "the behaviour has changed"
assert train > 1, "the behaviour has changed"
assert evaluation == 0, "the behaviour has changed"
PYTHON
