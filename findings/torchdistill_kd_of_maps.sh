#!/usr/bin/env bash
# torchdistill: the distillation term of KDLoss on logits of images grows with their height x width.
#
# Expected: alpha weighs two means. With alpha=0.5 cross-entropy and divergence count the same for maps of any size.
# Seen: the cross-entropy is a mean over pixels, the divergence by its default, 'batchmean', a sum over pixels that is
#   divided by the number of images. At 64x64 the term that should be half is 99.9 % of the loss, and a weight that was
#   found for crops of one size means another thing for the next. reduction='mean' is no way out: it divides by the
#   classes as well.
# Versions: torchdistill 1.1.5, torch 2.14.1, numpy 2.4.6.
# Output, the mean divergence of a pixel and the two terms of the loss at three sizes, 5 classes:
#   1x1: 0.37 a pixel; cross-entropy 2.02, divergence 0.37
#   16x16: 0.67 a pixel; cross-entropy 1.96, divergence 170.71
#   64x64: 0.66 a pixel; cross-entropy 1.98, divergence 2705.16
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 torchvision==0.29.1 numpy==2.4.6 torchdistill==1.1.5
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F
from torchdistill.losses.mid_level import KDLoss

def of(logits):
    return {"head": {"output": logits}}

torch.manual_seed(0)
for side in (1, 16, 64):
    student, teacher = torch.randn(2, 2, 5, side, side)
    labels = torch.randint(0, 5, (2, side, side))
    loss = KDLoss("head", "output", "head", "output", temperature=1.0, alpha=0.5)
    divergence = loss(of(student), of(teacher)).item()  # without labels it is this term alone
    entropy = 2 * loss(of(student), of(teacher), labels).item() - divergence
    pixel = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="none").sum(1).mean().item()
    print(f"{side}x{side}: {pixel:.2f} a pixel; cross-entropy {entropy:.2f}, divergence {divergence:.2f}")
    assert abs(entropy - F.cross_entropy(student, labels).item()) < 0.01 + 1e-4 * divergence, "the behaviour has changed"
    assert abs(divergence - side * side * pixel) < 1e-4 * divergence, "the behaviour has changed"
PYTHON
