#!/usr/bin/env bash
# torch.linalg.vector_norm of float32 on the CPU is up to a percent off on long vectors; the sum of squares is not.
#
# Expected: a reduction of float32 is as good as sum(), which adds in blocks: about seven digits at any length, along any
#   dimension.
# Seen: squares are added one after another in float32, in a few running sums for the whole length. The norm of 67 million
#   normal random numbers is 0.5 % off, of equal numbers in columns of 4 million 0.9 %; x.square().sum(0).sqrt() is right
#   to 4e-7. clip_grad_norm_ and get_total_norm are made of it. NumPy's norm does the same along columns, not along rows.
# Versions: torch 2.14.1, numpy 2.4.6.
# Output, relative errors:
#   0.1, vector of 2^26: vector_norm 5e-03, square, sum, sqrt 2e-07, numpy's norm 2e-15
#   0.1, columns of 2^22: vector_norm 9e-03, square, sum, sqrt 4e-07, numpy's norm 9e-03
#   normal, vector of 2^26: vector_norm 5e-03, square, sum, sqrt 9e-08, numpy's norm 2e-08
#   normal, columns of 2^22: vector_norm 2e-03, square, sum, sqrt 1e-07, numpy's norm 2e-03
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import torch

torch.manual_seed(0)
cases = {
    "0.1, vector of 2^26": torch.full((1 << 26, 1), 0.1),
    "0.1, columns of 2^22": torch.full((1 << 22, 4), 0.1),
    "normal, vector of 2^26": torch.randn(1 << 26, 1),
    "normal, columns of 2^22": torch.randn(1 << 22, 4),
}
for name, x in cases.items():
    right = x.double().square().sum(0).sqrt()
    answers = {
        "vector_norm": torch.linalg.vector_norm(x, dim=0),
        "square, sum, sqrt": x.square().sum(0).sqrt(),
        "numpy's norm": torch.from_numpy(np.atleast_1d(np.linalg.norm(x.numpy(), axis=0))),
    }
    off = {key: ((value.double() - right).abs() / right).max().item() for key, value in answers.items()}
    print(f"{name}: " + ", ".join(f"{key} {value:.0e}" for key, value in off.items()))
    assert off["vector_norm"] > 30 * off["square, sum, sqrt"], "behaviour has changed"
PYTHON
