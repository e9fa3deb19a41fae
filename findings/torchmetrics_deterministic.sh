#!/usr/bin/env bash
# torchmetrics: with torch.use_deterministic_algorithms(True) a confusion matrix takes a hundred times the time and memory.
#
# Expected: counting whole numbers is the same in any order; on the CPU the switch changes nothing.
# Seen: instead of torch.bincount every pixel is compared with every cell of the matrix, 361 for 19 classes, on the CPU
#   too: seconds and 3 GiB for one map of 512x1024, four times that for one of Cityscapes.
# Versions: torchmetrics 1.9.0, torch 2.14.1, numpy 2.4.6.
# Output (times vary; these were taken beside other work), one map of 512x1024, 19 classes:
#   usual: 104 ms, 20 MiB; deterministic: 13338 ms, 3037 MiB; equal matrices
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6 torchmetrics==1.9.0
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import resource
import time

import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

torch.manual_seed(0)
labels, predicted = torch.randint(0, 19, (2, 512, 1024))

def measure():
    multiclass_confusion_matrix(predicted[:8], labels[:8], 19)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    matrix = multiclass_confusion_matrix(predicted, labels, 19)
    return matrix, time.perf_counter() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024

usual, seconds, mib = measure()
torch.use_deterministic_algorithms(True)
slow, slow_seconds, slow_mib = measure()
assert (usual == slow).all(), "the behaviour has changed"
print(f"usual: {1e3 * seconds:.0f} ms, {mib:.0f} MiB; deterministic: {1e3 * slow_seconds:.0f} ms, {slow_mib:.0f} MiB; equal matrices")
assert slow_seconds > 10 * seconds and slow_mib > 10 * max(mib, 10), "the behaviour has changed"
PYTHON
