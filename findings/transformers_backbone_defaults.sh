#!/usr/bin/env bash
# transformers: ConvNeXt's, ConvNeXt V2's and FocalNet's backbones cannot be built from their own configurations' defaults.
#
# Expected: ConvNextBackbone(ConvNextConfig()) builds the backbone that the documentation names, as ResNetBackbone and
#   SwinBackbone do, and as ConvNextModel(ConvNextConfig()) does.
# Seen: a TypeError about lists and tuples. The default hidden_sizes have become a tuple, and the backbone adds a list to
#   it. Which stages are asked for makes no difference; the same numbers written as a list work, and so do files from a
#   hub, where they are lists. It meets who trains from scratch or distils into a network of their own width.
# Versions: transformers 5.24.0, torch 2.14.1, numpy 2.4.6.
# Output:
#   ConvNext: TypeError: can only concatenate list (not "tuple") to list; as a list it has [768] channels
#   ConvNextV2: TypeError: can only concatenate list (not "tuple") to list; as a list it has [768] channels
#   FocalNet: TypeError: can only concatenate list (not "tuple") to list; as a list it has [768] channels
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6 transformers==5.24.0
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers

for name in ("ConvNext", "ConvNextV2", "FocalNet"):
    make_config, backbone = (getattr(transformers, name + kind) for kind in ("Config", "Backbone"))
    sizes = make_config().hidden_sizes
    with torch.device("meta"):
        try:
            said = str(backbone(make_config()).channels)
        except TypeError as error:
            said = f"TypeError: {error}"
        channels = list(backbone(make_config(hidden_sizes=list(sizes))).channels)
    print(f"{name}: {said}; as a list it has {channels} channels")
    assert said.startswith("TypeError"), "the behaviour has changed"
PYTHON
