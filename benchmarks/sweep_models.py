"""About 85 models of torchvision, timm, smp and transformers as students and teachers, from random weights.

    python benchmarks/sweep_models.py            # all; nothing is downloaded
    python benchmarks/sweep_models.py timm: swin # those whose name has one of these words

Of each model: it builds, its maps have the declared channels and strides at an odd size, its answer repeats, it takes a
step as a student and teaches ESPNet-C one, and a checkpoint of it loads. A model that is refused in one line (a
ValueError) is listed with that line; any other error ends the script with status 1.
"""

import json
import logging
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import torch

from segdistill.dataset.normalization import IMAGENET
from segdistill.network import build_network
from segdistill.network.base import SegmentationNetwork, freeze_unused
from segdistill.network.weights.checkpoint import atomic_save, export_weights, load_network
from segdistill.utils.batch import Batch
from segdistill.utils.losses import build_losses
from segdistill.utils.options import name_terms

NUM_CLASSES = 5
SIZE = (131, 161)
TORCHVISION = ("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "fcn_resnet50", "lraspp_mobilenet_v3_large")
TIMM = (
    "beit_base_patch16_224",
    "cait_xxs24_224",
    "coat_lite_tiny",
    "convnext_atto",
    "crossvit_tiny_240",
    "deit3_small_patch16_224",
    "efficientnet_b0",
    "eva02_tiny_patch14_224",
    "halonet26t",
    "hiera_tiny_224",
    "hrnet_w18_small",
    "levit_128s",
    "maxvit_tiny_rw_224",
    "mobilenetv4_conv_small",
    "pvt_v2_b0",
    "resnet18",
    "sam2_hiera_tiny",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "twins_svt_small",
    "vit_relpos_small_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_tiny_patch16_224",
    "volo_d1_224",
    "xcit_nano_12_p16_224",
)
SMP = (
    ("unet", "resnet18"),
    ("unet", "mit_b0"),
    ("unetplusplus", "resnet18"),
    ("fpn", "tu-convnext_atto"),
    ("pspnet", "mit_b0"),
    ("pspnet", "tu-convnext_atto"),
    ("pspnet", "tu-swin_tiny_patch4_window7_224"),
    ("deeplabv3plus", "mobilenet_v2"),
    ("linknet", "resnet18"),
    ("manet", "resnet18"),
    ("pan", "resnet18"),
    ("upernet", "resnet18"),
    ("segformer", "mit_b0"),
)
# Keywords of small models; a size is given where the library's own is large.
VIT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
SWIN = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 7}
OUT = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
RESNET = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "embedding_size": 8, "layer_type": "basic"}
UPERNET = {"hidden_size": 16, "auxiliary_channels": 8}
QUERIES = {"num_queries": 10, "decoder_layers": 2, "encoder_layers": 1}
EOMT = {**VIT, "image_size": 64, "num_blocks": 1, "num_queries": 8, "num_upscale_blocks": 2}
HF = {
    "beit": {**VIT, "out_indices": [1, 2, 3, 4]},
    "bit": {**RESNET, "layer_type": "preactivation", "num_groups": 4},
    "clip_vision_model": VIT,
    "convnext": {"hidden_sizes": [8, 16, 24, 32]},
    "convnextv2": {"hidden_sizes": [8, 16, 24, 32]},
    "data2vec-vision": {**VIT, "out_indices": [1, 2, 3, 4]},
    "deit": VIT,
    "detr": {**QUERIES, "d_model": 64, "backbone_config": {"model_type": "resnet", **RESNET, **OUT}},
    "dinov2": VIT,
    "dinov2_with_registers": VIT,
    "dinov3_convnext": {"hidden_sizes": [8, 16, 24, 32]},
    "dinov3_vit": VIT,
    "dpt": {
        **VIT,
        "backbone_out_indices": [0, 1, 2, 3],
        "fusion_hidden_size": 16,
        "neck_hidden_sizes": [8, 16, 24, 32],
        "is_hybrid": False,
    },
    "efficientnet": {},
    "eomt": EOMT,
    "eomt_dinov3": EOMT,
    "focalnet": {"embed_dim": 16, "depths": [1, 1, 1, 1]},
    "hgnet_v2": {},
    "hiera": {"embed_dim": 16},
    "levit": {},
    "mask2former": {**QUERIES, "backbone_config": {"model_type": "swin", **SWIN, **OUT}},
    "maskformer": {"backbone_config": {"model_type": "swin", **SWIN}},
    "mobilenet_v2": {},
    "mobilevit": {},
    "mobilevitv2": {},
    "oneformer": {**QUERIES, "decoder_layers": 3, "backbone_config": {"model_type": "swin", **SWIN, **OUT}},
    "poolformer": {},
    "pvt": {},
    "pvt_v2": {},
    "regnet": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "groups_width": 8, "embedding_size": 8},
    "resnet": RESNET,
    "segformer": {"depths": [1, 1, 1, 1]},
    "siglip2_vision_model": VIT,
    "siglip_vision_model": VIT,
    "swin": SWIN,
    "swinv2": SWIN,
    "timm_wrapper": {"architecture": "vit_tiny_patch16_224"},
    "vit": VIT,
    "vit_mae": VIT,
    "upernet": {**UPERNET, "backbone_config": {"model_type": "convnext", "hidden_sizes": [8, 16, 24, 32], **OUT}},
    "upernet-beit": {
        **UPERNET,
        "backbone_config": {"model_type": "beit", **VIT, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": True},
    },
    "upernet-swin": {**UPERNET, "backbone_config": {"model_type": "swin", **SWIN, **OUT}},
    "videomt": EOMT,
}


def models(folder: Path) -> list[tuple[str, dict]]:
    """Name and options of every network; configs of transformers are written to ``folder``."""
    names = [(f"torchvision:{name}", {}) for name in TORCHVISION] + [(f"timm:{name}", {}) for name in TIMM]
    names += [(f"smp:{name}", {"encoder_name": encoder}) for name, encoder in SMP]
    for name, settings in HF.items():
        config = {"model_type": name if name in ("data2vec-vision",) else name.partition("-")[0], **settings}
        (folder / f"{name}.json").write_text(json.dumps(config))
        names.append((f"hf:{folder / name}.json", {}))
    return names


def check(name: str, options: dict, folder: Path) -> str:
    """What was seen of one model. Raises: ValueError, it is refused; AssertionError, it is wrong."""
    torch.manual_seed(0)
    network = build_network(name, NUM_CLASSES, **options).eval()
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        maps = network(images, network.features).features
        again = network(images, network.features).features
    assert all(torch.equal(maps[key], again[key]) for key in maps), "its answer does not repeat"
    for key, (channels, stride) in network.features.items():
        assert maps[key].shape[1] == channels, f"{key} has {maps[key].shape[1]} channels, not {channels}"
        slack = 1 + (network.multiple / 2 if network.multiple <= 64 else 0) / stride
        sides = zip(maps[key].shape[2:], SIZE, strict=True)
        assert all(abs(a - b / stride) <= slack for a, b in sides), f"{key} is {tuple(maps[key].shape[2:])} at {stride}"
        assert maps[key].isfinite().all(), f"{key} is not finite"
    teach(network, images)
    learn(network, images)
    atomic_save(export_weights(network, IMAGENET), folder / "best.pth")
    copy, _ = load_network(folder / "best.pth", trusted=[name])
    key = "logits" if network.num_classes else "context"
    with torch.no_grad():
        network.eval()
        assert torch.equal(copy(images, [key]).features[key], network(images, [key]).features[key]), (
            "reloaded, it differs"
        )
    size = f"only {network.only_side}" if network.only_side else f"x{network.multiple}"
    strides = " ".join(f"{key}:{feature.stride}" for key, feature in network.features.items())
    return f"{size:9} {strides}"


def teach(network: SegmentationNetwork, images: torch.Tensor) -> None:
    """One step of ESPNet-C with this teacher: its classes, if it has any, and a feature."""
    student = build_network("espnet_c", NUM_CLASSES, p=1, q=1)
    flags = [("fitnet", {"on": "context:layer4"})] + ([("pi", {})] if network.num_classes else [])
    losses = build_losses(name_terms(flags), student, network)
    labels = torch.zeros(len(images), *SIZE, dtype=torch.uint8)
    batch = Batch(images, labels, torch.zeros(len(images), 2), torch.tensor(float(labels.numel())), 0.0)
    with torch.no_grad():
        taught = network(images, {"layer4"} | ({"logits"} & network.features.keys()))
    output = student(images, {"context", "logits"})
    loss = sum(method(output, taught, batch) for method in losses.values())
    loss.backward()
    assert loss.isfinite(), "as a teacher its loss is not finite"


def learn(network: SegmentationNetwork, images: torch.Tensor) -> None:
    """One step of this network as a student."""
    wanted = {"logits" if network.num_classes else "context"}
    freeze_unused(network, wanted)
    parameters = [value for value in network.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(parameters, 1e-3)
    maps = network.train().extract(images, frozenset(wanted)).features
    loss = sum(value.square().mean() for value in maps.values())
    loss.backward()
    assert loss.isfinite(), "as a student its loss is not finite"
    assert any(value.grad is not None and value.grad.any() for value in parameters), "as a student it has no gradient"
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def main(words: list[str]) -> int:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    counts = {"right": 0, "refused": 0, "WRONG": 0}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in models(Path(folder)):
            label = " ".join([name.replace(f"{folder}/", "").removesuffix(".json"), *options.values()])
            if words and not any(word in label for word in words):
                continue
            try:
                verdict, text = "right", check(name, options, Path(folder))
            except ValueError as error:
                ours = "/network/" in traceback.extract_tb(error.__traceback__)[-1].filename
                verdict, text = "refused" if ours else "WRONG", str(error).replace(f"{folder}/", "")
            except Exception as error:  # whatever another library raises is what is looked for
                last = traceback.extract_tb(error.__traceback__)[-1]
                verdict, text = "WRONG", f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
            counts[verdict] += 1
            print(f"{label:45} {verdict:8} {' '.join(text.split())[:200]}", flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 1 if counts["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
