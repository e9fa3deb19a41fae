#!/usr/bin/env bash
# torch.utils.flop_counter counts the backward pass of a depthwise convolution as that of a dense one.
#
# Expected: a backward pass costs twice the forward pass, one product for the input's gradient and one for the weights',
#   for grouped convolutions too.
# Seen: the weights' gradient is counted without the groups. Of 64 channels in 64 groups the backward pass is 32.5 times
#   what it is, of 256 channels 128.5 times; the forward pass and dense convolutions are right. A training step of a
#   MobileNet or of any network with depthwise convolutions so seems to cost many times what it does.
# Versions: torch 2.14.1, numpy 2.4.6.
# Output, counted over true, channels 64 at 32x32, kernel 3x3:
#   groups 1: forward 1.0, backward 1.0
#   groups 8: forward 1.0, backward 4.5
#   groups 64: forward 1.0, backward 32.5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

for groups in (1, 8, 64):
    layer, x = nn.Conv2d(64, 64, 3, padding=1, bias=False, groups=groups), torch.randn(1, 64, 32, 32, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        y = layer(x)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    true = 2 * y.numel() * 64 // groups * 9
    counted = forward.get_total_flops() / true, backward.get_total_flops() / (2 * true)
    print(f"groups {groups}: forward {counted[0]:.1f}, backward {counted[1]:.1f}")
    assert counted == (1, (1 + groups) / 2), "the behaviour has changed"
PYTHON
