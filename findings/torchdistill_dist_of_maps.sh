#!/usr/bin/env bash
# torchdistill: on logits of images half of DISTLoss is constant for a batch of one, and a matter of signs for two.
#
# Expected: DIST (Huang et al., NeurIPS 2022) relates the scores of a class over all samples; in its segmentation code
#   pixels are the samples. A loss that takes (N, C, H, W) correlates over N x H x W, or refuses.
# Seen: the maps are accepted, and the relation within a class is correlated over the images of the batch alone, at
#   each pixel: of one image it is 1 with a zero gradient, of two images every correlation is 1 or -1. Flattened to
#   (N * H * W, C) the same class gives the loss of the paper.
# Versions: torchdistill 1.1.5, torch 2.14.1, numpy 2.4.6.
# Output, the part within classes (beta=0, gamma=1), 5 classes at 16x16, and the size of its gradient:
#   1 image: 1.0000, gradient 0; flattened 1.0643, gradient 0.031
#   2 images: 1.0063, gradient 3.5e-07; flattened 1.0199, gradient 0.024
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 torchvision==0.29.1 numpy==2.4.6 torchdistill==1.1.5
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
from torchdistill.losses.mid_level import DISTLoss

def measure(student, teacher):
    student = student.clone().requires_grad_()
    loss = DISTLoss("head", "output", "head", "output", beta=0.0, gamma=1.0)
    value = loss({"head": {"output": student}}, {"head": {"output": teacher}})
    value.backward()
    return value.item(), student.grad.norm().item()

def flat(maps):
    return maps.movedim(1, -1).flatten(0, 2)

torch.manual_seed(0)
for number in (1, 2):
    student, teacher = torch.randn(2, number, 5, 16, 16)
    (value, gradient), (flat_value, flat_gradient) = measure(student, teacher), measure(flat(student), flat(teacher))
    images = "1 image" if number == 1 else f"{number} images"
    print(f"{images}: {value:.4f}, gradient {gradient:.2g}; flattened {flat_value:.4f}, gradient {flat_gradient:.2g}")
    assert flat_gradient > 1e-4, "the behaviour has changed"
    assert gradient < 1e-2 * flat_gradient, "the behaviour has changed"
PYTHON
