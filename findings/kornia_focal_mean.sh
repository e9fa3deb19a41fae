#!/usr/bin/env bash
# kornia: the mean of focal_loss is one over classes and ignored pixels, so it is not the cross-entropy at gamma 0.
#
# Expected: with gamma=0 and alpha=None the focal loss is the cross-entropy (Lin et al., ICCV 2017), and reduction='mean'
#   is the mean over the pixels that are not ignored.
# Seen: the loss is a map for each class of which all but one are 0, and the mean counts them all, and ignored pixels
#   too: of 5 classes and half of the pixels ignored it is a tenth. A weight that was found for one number of classes
#   is another one for the next; with 150 classes the loss is next to nothing beside a cross-entropy.
# Versions: kornia 0.9.0, torch 2.14.1, numpy 2.4.6.
# Output, random logits, gamma 0, alpha None:
#   5 classes, 0 % ignored: cross-entropy 1.968, focal loss 0.3937, one 5.0th
#   5 classes, 50 % ignored: cross-entropy 1.997, focal loss 0.1997, one 10.0th
#   150 classes, 0 % ignored: cross-entropy 5.508, focal loss 0.0367, one 150.0th
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6 kornia==0.9.0
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F
from kornia.losses import focal_loss

torch.manual_seed(0)
for classes, rows in ((5, 0), (5, 16), (150, 0)):
    logits, labels = torch.randn(2, classes, 32, 32), torch.randint(0, classes, (2, 32, 32))
    labels[:, :rows] = 255
    usual = F.cross_entropy(logits, labels, ignore_index=255).item()
    focal = focal_loss(logits, labels, None, 0.0, reduction="mean", ignore_index=255).item()
    print(f"{classes} classes, {100 * rows // 32} % ignored: cross-entropy {usual:.3f}, focal loss {focal:.4f}, one {usual / focal:.1f}th")
    assert abs(usual / focal * (1 - rows / 32) / classes - 1) < 1e-3, "the behaviour has changed"
PYTHON
