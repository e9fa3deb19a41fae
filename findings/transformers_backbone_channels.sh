#!/usr/bin/env bash
# transformers: HGNetV2Backbone and PPLCNetV4Backbone give maps of other channels than they declare.
#
# Expected: backbone.channels are the channels of backbone(images).feature_maps, one number a map: what a decoder or a
#   distillation adapter is built from. The library's own decoders are.
# Seen: with default settings HGNetV2 (the backbone of D-FINE) declares those of its configuration's hidden_sizes, which
#   for the stem and the first stage are twice what the maps have. PPLCNetV4 (new this year) declares a tuple for its
#   stem. The deeper stages are right, so a decoder of the last three never notices.
# Versions: transformers 5.24.0, torch 2.14.1, numpy 2.4.6.
# Output, declared and given:
#   HGNetV2Backbone: [64, 256, 512, 1024, 2048], [48, 128, 512, 1024, 2048]
#   PPLCNetV4Backbone: [(3, 48, 96), 96, 96, 192, 384], [96, 96, 96, 192, 384]
#   ResNetBackbone: [64, 256, 512, 1024, 2048], [64, 256, 512, 1024, 2048]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6 transformers==5.24.0
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers

for name in ("HGNetV2", "PPLCNetV4", "ResNet"):
    stages = getattr(transformers, f"{name}Config")().stage_names
    config = getattr(transformers, f"{name}Config")(out_features=list(stages))
    with torch.device("meta"), torch.no_grad():
        backbone = getattr(transformers, f"{name}Backbone")(config).eval()
        given = [maps.shape[1] for maps in backbone(torch.empty(1, 3, 224, 224)).feature_maps]
    print(f"{name}Backbone: {list(backbone.channels)}, {given}")
    assert (list(backbone.channels) == given) == (name == "ResNet"), "the behaviour has changed"
    assert list(backbone.channels[2:]) == given[2:], "the behaviour has changed"
PYTHON
