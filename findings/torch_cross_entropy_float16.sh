#!/usr/bin/env bash
# The mean cross-entropy of float16 logits on the CPU is inf, then nan, for pictures as small as 200x200 and 256x256.
#
# Expected: F.cross_entropy(reduction="mean") is a mean: where every pixel's loss is about 2, so is it, however many
#   pixels there are. Sums are kept in float32 inside, as mean() of the very same float16 losses does.
# Seen: the sum of the losses and the number of pixels are both stored as float16 (at most 65504) before the division. At
#   a loss of 2 a pixel the mean is inf from about 33,000 pixels on, and nan (inf / inf) from about 65,500 on. The mean of
#   reduction="none" is right at every size. bfloat16 does not overflow; CPU autocast computes cross_entropy in float32.
# Versions: torch 2.14.1, numpy 2.4.6.
# Output:
#   64x64 torch.float16: reduction='mean' 1.99, mean of reduction='none' 1.99
#   200x200 torch.float16: reduction='mean' inf, mean of reduction='none' 1.97
#   256x256 torch.float16: reduction='mean' nan, mean of reduction='none' 1.97
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import math
import torch
from torch.nn.functional import cross_entropy

generator = torch.manual_seed(0)
for side, right in ((64, math.isfinite), (200, math.isinf), (256, math.isnan)):
    logits, labels = torch.randn(1, 5, side, side, generator=generator), torch.randint(5, (1, side, side))
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        mean = cross_entropy(logits.to(kind), labels).item()
        each = cross_entropy(logits.to(kind), labels, reduction="none").mean().item()
        print(f"{side}x{side} {kind}: reduction='mean' {mean:.2f}, mean of reduction='none' {each:.2f}")
        expected = right if kind == torch.float16 else math.isfinite
        assert math.isfinite(each) and expected(mean), "behaviour has changed"
PYTHON
