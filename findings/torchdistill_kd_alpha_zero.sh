#!/usr/bin/env bash
# torchdistill: KDLoss with alpha=0 loses the factor temperature squared, which every other alpha has.
#
# Expected: the loss is alpha * cross-entropy + (1 - alpha) * T^2 * divergence, as its documentation writes it. alpha=0
#   is T^2 * divergence, the limit of small alphas.
# Seen: with alpha=0 or None, or without labels, the bare divergence is returned: neither T^2 nor beta. With T=4 a
#   sweep of alpha that ends at 0 ends with a loss of a sixteenth, and beta has no effect there.
# Versions: torchdistill 1.1.5, torch 2.14.1, numpy 2.4.6.
# Output, logits of 8 samples and 10 classes, T=4:
#   alpha 0.5: 1.9104
#   alpha 0.1: 1.1048
#   alpha 1e-06: 0.9033
#   alpha 0: 0.0565
#   alpha 0, beta 100: 0.0565
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 torchvision==0.29.1 numpy==2.4.6 torchdistill==1.1.5
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
from torchdistill.losses.mid_level import KDLoss

torch.manual_seed(0)
student, teacher, labels = torch.randn(8, 10), torch.randn(8, 10), torch.randint(0, 10, (8,))

def loss(alpha, **options):
    term = KDLoss("head", "output", "head", "output", temperature=4.0, alpha=alpha, **options)
    return term({"head": {"output": student}}, {"head": {"output": teacher}}, labels).item()

for alpha in (0.5, 0.1, 1e-6, 0):
    print(f"alpha {alpha:g}: {loss(alpha):.4f}")
print(f"alpha 0, beta 100: {loss(0, beta=100):.4f}")
assert abs(loss(1e-6) / loss(0) - 16) < 0.01, "the behaviour has changed"
assert loss(0) == loss(0, beta=100), "the behaviour has changed"
PYTHON
