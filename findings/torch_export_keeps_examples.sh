#!/usr/bin/env bash
# torch.export.save writes the example inputs into the file: 25 MB for a network of 896 bytes, and the picture itself.
#
# Expected: the examples only give shapes and types to torch.export.export; the file holds the program and its weights,
#   as an ONNX or TorchScript file does.
# Seen: the .pt2 file is as large as the example batch, and torch.export.load gives back every pixel of it, also where
#   the shapes are dynamic. A student that was exported with a real batch takes many times its size to deploy and
#   carries pictures that perhaps may not be passed on. The documentation of save says nothing of it.
#   program.example_inputs = None before saving leaves them out.
# Versions: torch 2.14.1, numpy 2.4.6.
# Output:
#   weights 896 bytes, file 25176058 bytes, without examples 8539 bytes; the images are in the file: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python - 2> /dev/null <<'PYTHON'
import os

import torch

network, images = torch.nn.Conv2d(3, 8, 3), torch.rand(4, 3, 512, 1024)
axis = torch.export.Dim.DYNAMIC
program = torch.export.export(network, (images,), dynamic_shapes=({0: axis, 2: axis, 3: axis},))
torch.export.save(program, "with.pt2")
weights = sum(entry.numel() * 4 for entry in network.parameters())
found = torch.export.load("with.pt2").example_inputs[0][0]
program.example_inputs = None
torch.export.save(program, "without.pt2")
sizes = [os.path.getsize(name) for name in ("with.pt2", "without.pt2")]
print(f"weights {weights} bytes, file {sizes[0]} bytes, without examples {sizes[1]} bytes; "
      f"the images are in the file: {torch.equal(found, images)}")
assert torch.equal(found, images) and sizes[0] > images.numel() * 4 > 100 * sizes[1], "the behaviour has changed"
PYTHON
