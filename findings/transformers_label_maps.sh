#!/usr/bin/env bash
# transformers: the image processors of BEiT and DPT scale label maps like pictures and so make up classes.
#
# Expected: segmentation_maps are scaled with the nearest neighbour, as SegformerImageProcessor does: labels holds
#   no id that the label map does not hold.
# Seen: BEiT's and DPT's use the picture's own bicubic filter. Along every edge of a region there are ids of other
#   classes; at the edge of the void label 255 there are dozens of ids that no class has. Nothing warns: ids that
#   happen to be classes are learnt. Run with the processors that need no torch; the default ones (torchvision) do the
#   same, with negative ids if the map is int32 or int64, and Sapiens2ImageProcessor does so bilinearly.
# Versions: transformers 5.24.0, pillow 13.0.0, numpy 2.4.6.
# Output:
#   Segformer without void: 0 ids made up, in 0.0% of the pixels: []
#   Segformer with void: 0 ids made up, in 0.0% of the pixels: []
#   Beit without void: 7 ids made up, in 7.1% of the pixels: [1, 2, 4, 5, 6, 8]
#   Beit with void: 45 ids made up, in 8.2% of the pixels: [1, 2, 4, 5, 6, 8]
#   DPT without void: 7 ids made up, in 7.0% of the pixels: [1, 2, 4, 5, 6, 8]
#   DPT with void: 99 ids made up, in 7.8% of the pixels: [1, 2, 4, 5, 6, 8]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install transformers==5.24.0 pillow==13.0.0 numpy==2.4.6
"$folder/venv/bin/python" - 2> /dev/null <<'PYTHON'
import numpy as np
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

rng = np.random.default_rng(0)
image = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
plain = np.kron(rng.choice([0, 3, 7], (5, 7)), np.ones((10, 10))).astype(np.uint8)
void = plain.copy()
void[20:30, 30:40] = 255
for kind in (SegformerImageProcessorPil, BeitImageProcessorPil, DPTImageProcessorPil):
    name = kind.__name__.removesuffix("ImageProcessorPil")
    for words, labels in (("without void", plain), ("with void", void)):
        seen = np.asarray(kind()(images=image, segmentation_maps=labels)["labels"])
        more = sorted(set(np.unique(seen).tolist()) - set(np.unique(labels).tolist()))
        share = np.isin(seen, more).mean()
        print(f"{name} {words}: {len(more)} ids made up, in {share:.1%} of the pixels: {more[:6]}")
        assert bool(more) == (name != "Segformer"), "the behaviour has changed"
PYTHON
