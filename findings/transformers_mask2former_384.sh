#!/usr/bin/env bash
# transformers: Mask2Former's semantic post-processing squeezes every mask through 384x384, whatever the image.
#
# Expected: with target_sizes the classes of the masks are enlarged to the image, as for MaskFormer.
# Seen: masks are first resized to 384x384, of all models and images. Those of Cityscapes' images, 256x512, lose a
#   quarter of their columns and gain rows, and are enlarged again: of poles that are one column of the mask wide, 4
#   pixels of the image, a third of the union differs. Without target_sizes the answer is a square. No argument changes
#   it, and the documentation does not mention it.
# Versions: transformers 5.24.0, torch 2.14.1, torchvision 0.29.1, numpy 2.4.6.
# Output:
#   MaskFormer: IoU of the poles with those of the masks' own size 1.00; bare (256, 512)
#   Mask2Former: IoU of the poles with those of the masks' own size 0.67; bare (384, 384)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 torchvision==0.29.1 numpy==2.4.6 transformers==5.24.0
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F
from transformers import Mask2FormerImageProcessor, MaskFormerImageProcessor
from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput as Output

# Two queries: everything, of class 0, and poles, of class 1; the third logit is "no object".
masks = torch.full((1, 2, 256, 512), 1.0)
masks[:, 1] = -8.0
masks[:, 1, :, 20::16] = 8.0
output = Output(class_queries_logits=torch.tensor([[[5.0, -5, -5], [-5, 8, -5]]]), masks_queries_logits=masks)

def iou(segmentation, once):
    poles, expected = segmentation == 1, once == 1
    return ((poles & expected).sum() / (poles | expected).sum()).item()

size = (1024, 2048)
scores = torch.einsum("bqc,bqhw->bchw", output.class_queries_logits.softmax(-1)[..., :-1], masks.sigmoid())
once = F.interpolate(scores, size, mode="bilinear")[0].argmax(0)
for processor in (MaskFormerImageProcessor(), Mask2FormerImageProcessor()):
    (segmentation,) = processor.post_process_semantic_segmentation(output, target_sizes=[size])
    (bare,) = processor.post_process_semantic_segmentation(output)
    name = type(processor).__name__.removesuffix("ImageProcessor")
    print(f"{name}: IoU of the poles with those of the masks' own size {iou(segmentation, once):.2f}; bare {tuple(bare.shape)}")
assert tuple(bare.shape) == (384, 384), "the behaviour has changed"
assert iou(segmentation, once) < 0.8, "the behaviour has changed"
PYTHON
