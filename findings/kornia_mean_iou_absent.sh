#!/usr/bin/env bash
# kornia: mean_iou gives a class that is neither in the labels nor in the prediction an IoU of 1.
#
# Expected: such a class has no IoU: it is nan, or left out of the mean, as in the benchmarks' own evaluations.
# Seen: 0 / 0 is 1. The function answers per image, where most classes are absent: of a picture that holds 3 of
#   Cityscapes' 19 classes a prediction with not one pixel right scores 84.2 on average. No option, no warning.
# Versions: kornia 0.9.0, torch 2.14.1, numpy 2.4.6.
# Output, labels of classes 0 to 2, predicted as the next of the three:
#   19 classes, no pixel right: mean IoU 84.2, of the classes that occur 0.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6 kornia==0.9.0
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
from kornia.metrics import mean_iou

labels = torch.arange(3).repeat(1, 30, 20)
wrong = (labels + 1) % 3
(scores,) = mean_iou(wrong, labels, 19)
print(f"19 classes, no pixel right: mean IoU {100 * scores.mean():.1f}, of the classes that occur {100 * scores[:3].mean():.1f}")
assert scores[:3].max() < 1e-3, "the behaviour has changed"
assert (scores[3:] == 1).all(), "the behaviour has changed"
PYTHON
