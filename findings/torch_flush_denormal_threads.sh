#!/usr/bin/env bash
# torch: set_flush_denormal(True) returns True, and half of a tensor keeps its subnormal numbers on two threads.
#
# Expected: after it every operation on the CPU writes 0 for results below 1.2e-38; or False.
# Seen: the flag is the calling thread's. Threads of the intra-op pool take it over when they are made, at the first
#   operation large enough to be shared; those that are there already go on as before. The same product of the same
#   values is 0 in one half of the tensor and 2e-40 in the other. Called before the first operation, it holds everywhere.
#   What it is for, the time that subnormal weights cost, is saved in part only, and results depend on how work was split.
# Versions: torch 2.14.1.
# Output, nonzero products of 4194304: default 4194304, late 2097152, early 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6
cat > "$folder/flush.py" <<'PYTHON'
import sys

import numpy
import torch

kind = sys.argv[1]
torch.set_num_threads(2)
if kind == "early":
    assert torch.set_flush_denormal(True)
values = torch.from_numpy(numpy.full(1 << 22, 1 << 16, dtype=numpy.int32).view(numpy.float32))  # 9.2e-41
values.clone().add_(1.0)  # the pool has its threads now
if kind == "late":
    assert torch.set_flush_denormal(True)
bits = (values * 2).view(torch.int32)
nonzero = int(bits.count_nonzero())
print(kind, nonzero)
assert nonzero == {"default": 1 << 22, "late": 1 << 21, "early": 0}[kind], "behaviour has changed"
PYTHON
for kind in default late early; do
    "$folder/venv/bin/python" "$folder/flush.py" "$kind"
done
