#!/usr/bin/env bash
# segmentation_models_pytorch: SoftCrossEntropyLoss divides by void pixels too, so void makes every gradient smaller.
#
# Expected: ignore_index means what it means in torch's cross_entropy: a mean over the pixels that count.
# Seen: ignored pixels add 0 to the sum and 1 to the divisor. A batch of which 7/8 is void gives an eighth of the loss
#   and of the gradient; images with much void, or padded crops, teach less, and a second term of the loss weighs more
#   there. Without void both losses are equal to the last digit. DiceLoss and FocalLoss of the package leave void out.
# Versions: segmentation_models_pytorch 0.6.0, torch 2.14.1, numpy 2.4.6.
# Output, random logits of 5 classes:
#   0 % void: torch 1.9684, SoftCrossEntropyLoss 1.9684, over torch 1.000
#   50 % void: torch 1.9869, SoftCrossEntropyLoss 0.9935, over torch 0.500
#   88 % void: torch 1.9631, SoftCrossEntropyLoss 0.2454, over torch 0.125
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 torchvision==0.29.1 numpy==2.4.6 segmentation_models_pytorch==0.6.0
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F

torch.manual_seed(0)
logits, labels = torch.randn(2, 5, 32, 32), torch.randint(0, 5, (2, 32, 32))
for rows in (0, 16, 28):
    partly = labels.clone()
    partly[:, :rows] = 255
    usual = F.cross_entropy(logits, partly, ignore_index=255).item()
    soft = smp.losses.SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=255)(logits, partly).item()
    print(f"{100 * rows / 32:.0f} % void: torch {usual:.4f}, SoftCrossEntropyLoss {soft:.4f}, over torch {soft / usual:.3f}")
    assert abs(soft / usual - (1 - rows / 32)) < 1e-4, "the behaviour has changed"
PYTHON
