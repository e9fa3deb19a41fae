#!/usr/bin/env bash
# torch: an antialiased resize to a width of 1 repeats the first row in all others, on the CPU, without a word.
#
# Expected: a column of height 4 whose pixels are the means of their rows, as for a width of 2 and without antialias.
# Seen: F.interpolate(..., antialias=True) of float32 and float64, bilinear and bicubic, shrinking and growing, gives the
#   value of the first row in every row. A height of 1 is right, and so is uint8: there are other kernels. uint8 of three
#   channels to 1x1 is a RuntimeError that calls itself internal. Strips of features or of thin crops meet it.
# Versions: torch 2.14.1, numpy 2.4.6; kernels for AVX-512, AVX2 and none alike.
# Output, rows of 0, 30, 60 ... 210, resized to 4 rows:
#   width 2: 21, 75, 135, 189
#   width 1: 21, 21, 21, 21
#   width 1, bicubic: 16, 16, 16, 16
#   width 1, without antialias: 15, 75, 135, 195
#   width 1, uint8: 21, 75, 135, 189
#   transposed, height 1: 21, 75, 135, 189
#   uint8 of 3 channels to 1x1: RuntimeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F

image = (torch.arange(8.0) * 30).view(1, 1, 8, 1).expand(1, 1, 8, 6).contiguous()

def rows(image, size=(4, 1), mode="bilinear", antialias=True):
    return F.interpolate(image, size, mode=mode, antialias=antialias)[0, 0].flatten().round().int().tolist()

found = {
    "width 2": rows(image, (4, 2))[::2],
    "width 1": rows(image),
    "width 1, bicubic": rows(image, mode="bicubic"),
    "width 1, without antialias": rows(image, antialias=False),
    "width 1, uint8": rows(image.byte()),
    "transposed, height 1": rows(image.mT.contiguous(), (1, 4)),
}
for name, values in found.items():
    print(f"{name}: {', '.join(map(str, values))}")
try:
    rows(image.byte().expand(1, 3, 8, 6).contiguous(), (1, 1))
    print("uint8 of 3 channels to 1x1: right")
except RuntimeError:
    print("uint8 of 3 channels to 1x1: RuntimeError")
assert len({*found["width 1"]}) == len({*found["width 1, bicubic"]}) == 1, "the behaviour has changed"
assert found["width 2"] == found["width 1, uint8"] == found["transposed, height 1"], "the behaviour has changed"
PYTHON
