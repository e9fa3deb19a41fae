#!/usr/bin/env bash
# torch.histc and torch.histogram of float32 on the CPU stop counting at 16,777,216 a thread.
#
# Expected: counts of values are right up to the number of values, as those of bincount are, or the documentation names a
#   limit.
# Seen: each thread adds ones to a float32, which stays at 2^24. 40 million equal values are counted as 16,777,216 on one
#   thread and as 33,554,432 on two: the answer depends on the threads. The usual code for mean IoU counts intersections
#   and unions with histc; of a set that is counted at once, large classes lose pixels and small ones do not, so their
#   IoU is wrong. float64 is right.
# Versions: torch 2.14.1, numpy 2.4.6.
# Output, of 40,000,000 zeros:
#   1 thread: histc 16777216, histogram 16777216, histc of float64 40000000, bincount 40000000
#   2 threads: histc 33554432, histogram 33554432, histc of float64 40000000, bincount 40000000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch

count = 40_000_000
zeros = torch.zeros(count)
for threads in (1, 2):
    torch.set_num_threads(threads)
    counts = {
        "histc": zeros.histc(2, 0, 1)[0],
        "histogram": torch.histogram(zeros, 2, range=(0, 1)).hist[0],
        "histc of float64": zeros.double().histc(2, 0, 1)[0],
        "bincount": zeros.long().bincount()[0],
    }
    print(f"{threads} thread{'s'[:threads - 1]}: " + ", ".join(f"{name} {int(value)}" for name, value in counts.items()))
    assert counts["histc"] == counts["histogram"] == threads * 2**24, "the behaviour has changed"
    assert counts["histc of float64"] == counts["bincount"] == count, "the behaviour has changed"
PYTHON
