"""The learning rates of every recipe of experiments/ and what they move, against the originals' own formulas.

The expected numbers are written down from the originals' code, as FILE:LINE says, not computed by ours: of every group
of parameters their number, the learning rate at a step, and the weight decay; batch, crop, colours; the terms. What
differs on purpose is in docs/methods.md, "Where a recipe differs from the original".
"""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from segdistill.network import build_network
from segdistill.utils.learner import Learner
from segdistill.utils.options import Options, parse_options
from segdistill.utils.options.stored import flat
from segdistill.utils.student import build_learner
from segdistill.utils.tasks import TASKS

ROOT = Path(__file__).parents[1]


class Group(NamedTuple):
    """Parameters of the original, the rate by which it updates them at a step 0 ... num_steps - 1, its weight decay."""

    num_parameters: int
    rate: object
    decay: float


def poly(lr, num_steps, power=0.9, floor=0.0):
    return lambda step: floor + (lr - floor) * (1 - float(step) / num_steps) ** power


def segformer(lr):
    """mmcv/runner/hooks/lr_updater.py: PolyLrUpdaterHook with min_lr 0 and linear warm-up."""
    warmup, ratio, num_steps = 1500, 1e-6, 160_000

    def rate(step):
        regular = lr * (1 - step / num_steps) ** 1.0
        return regular * (1 - (1 - step / warmup) * (1 - ratio)) if step < warmup else regular

    return rate


# Parameters of the originals' students for 19 classes (21 of VOC), counted in their code.
PSPNET_R18, CIRKD_PSPNET_R18, DEEPLABV3_R18, DEEPLABV3_R18_WIDE = 13_068_262, 12_919_334, 13_607_974, 22_762_918
PSPNET_R18_NYU = 13_066_714  # 13 classes
ADAPTER = 128 * 512 + 2 * 512  # CWD's, on features: a 1x1 convolution and the weight and bias of a norm
PROJECTION = (
    128 * 256 + 2 * 256 + 256 * 256
)  # CIRKD losses/cirkd_memory.py: two 1x1 convolutions, the first with a BatchNorm
# CIRKD losses/cirkd_memory.py:20-25 and cirkd_channel.py:20-25, fitnet.py:11, gcn.py:14-26, for maps of 512 channels
V2 = 2 * (2 * 512**2 + 2 * 512) + 512**2 + (3 + 1 + 4) * 256 * 512 + 4 * 512
# The same for maps of 256 and 768 channels. SegFormer's has no graph block: train_cirkdv2_segformer.py:338 is a comment
V2_SEGFORMER = 2 * (256 * 768 + 2 * 768 + 768**2) + 256 * 768
SEGFORMER_B0 = 3_319_392 + (512 + 4) * 256 + (1024 + 1) * 256 + 2 * 256 + (256 + 1) * 19  # CIRKD models/segformer.py
MIT_NORMS, MIT_BIASES = 7_168, 14_336  # of SegFormer's mit_b0, of 3,319,392 parameters
RECIPES = {
    # SKD networks/kd_model.py:74,110-117, train_and_eval.py:21-22; it counts steps from 1, one more than here
    "skd_cityscapes": (40_000, 1, [Group(PSPNET_R18, poly(1e-2, 40_000), 5e-4)]),
    # no script of theirs: the same
    "skd_nyuv2": (40_000, 1, [Group(PSPNET_R18_NYU, poly(1e-2, 40_000), 5e-4)]),
    # SemSeg-distill/networks/kd_model.py:99,132-139, train.py:34-35
    "cwd_cityscapes": (40_000, 0, [Group(PSPNET_R18, poly(1e-2, 40_000), 5e-4)]),
    # the same, and 113-120, where the adapter becomes the second group, whose rate nothing changes
    "cwd_cityscapes channel kl 50 1 False False True": (
        40_000,
        0,
        [Group(PSPNET_R18, poly(1e-2, 40_000), 5e-4), Group(ADAPTER, lambda step: 1e-2, 5e-4)],
    ),
    # IFVD networks/kd_model.py:99,124-131, train.py:34-35
    "ifvd_cityscapes": (40_000, 0, [Group(PSPNET_R18, poly(1e-2, 40_000), 5e-4)]),
    # CIRKD train_cirkdv2.py:66-71,274-277,301-304,375 (as train_cirkd.py before it)
    "cirkd_deeplabv3_r18": (40_000, 0, [Group(DEEPLABV3_R18 + PROJECTION, poly(2e-2, 40_000), 1e-4)]),
    # train_cirkdv2.py:66-71,265-282,301-304,375, scripts/train_cirkdv2/cityscapes/deeplabv3_resnet18.sh:8-9
    "cirkdv2_deeplabv3_r18": (80_000, 0, [Group(DEEPLABV3_R18_WIDE + V2, poly(1e-2, 80_000), 1e-4)]),
    # train_cirkdv2_segformer.py:69,255-272,293-296,361, scripts/train_cirkdv2/cityscapes/segformer_b0.sh:12,28-29
    "cirkdv2_segformer_b0": (160_000, 0, [Group(SEGFORMER_B0 + V2_SEGFORMER, poly(2e-4, 160_000), 1e-4)]),
    # DIST segmentation/train_kd.py:61-68,202-205,217-220,263
    "dist_deeplabv3_r18": (40_000, 0, [Group(DEEPLABV3_R18, poly(2e-2, 40_000, floor=1e-4), 5e-4)]),
    "dist_pspnet_r18": (40_000, 0, [Group(CIRKD_PSPNET_R18, poly(2e-2, 40_000, floor=1e-4), 5e-4)]),
    # AKD train_kd.py:61-62,316-322, utils/lr_scheduler.py:44-48,68-70, modeling/deeplab.py:47-65
    "voc_deeplabv3plus": (
        12_200,
        0,
        [Group(11_176_512, poly(7e-3, 12_200), 5e-4), Group(5_431_669, poly(7e-2, 12_200), 5e-4)],
    ),
    # SegFormer local_configs/segformer/B0/segformer.b0.1024x1024.city.160k.py:39-49. Of what does not decay here, its
    # biases and the head's norm decay there; the convolution before that norm has no bias there
    "segformer_b0": (
        160_000,
        0,
        [
            Group(3_319_392 - MIT_NORMS - MIT_BIASES, segformer(6e-5), 0.01),
            Group(MIT_NORMS + MIT_BIASES, segformer(6e-5), 0.0),
            Group(512 * 256 + 1024 * 256 + 256 * 19, segformer(6e-4), 0.01),
            Group(2 * 256 + 4 * 256 + 19 + 256, segformer(6e-4), 0.0),
        ],
    ),
}


def options_of(recipe: str, folder: Path) -> Options:
    """The options of the recipe's distilled student: what its script gives to train.py."""
    script, *arguments = recipe.split()
    recorder = folder / "python"
    recorder.write_text(
        f'#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done >> {folder}/words\necho >> {folder}/words\n'
    )
    recorder.chmod(0o755)
    for name in ("data", "backbone"):
        (folder / name).mkdir() if name == "data" else (folder / name).touch()
    given = {"python": str(recorder), "check": "only", "data_dir": str(folder / "data")}
    given |= dict.fromkeys(("backbone", "teacher_backbone"), str(folder / "backbone"))
    command = ["bash", f"experiments/{script}.sh", *arguments]
    subprocess.run(command, cwd=ROOT, env=os.environ | given, check=True, capture_output=True)
    first, *words = (folder / "words").read_text().split("\n\n")[0].splitlines()
    assert Path(first).name == "train.py"
    return parse_options(words)


def learner_of(options: Options) -> tuple[Learner, object]:
    num_classes = {"voc2012": 21, "nyuv2": 13}.get(options.data.dataset, 19)
    student = build_network(options.student.network, num_classes, **options.student.network_options)
    with torch.device("meta"):  # the terms ask a teacher for its features alone
        teacher = build_network(options.teacher.teacher_network, num_classes, **options.teacher.teacher_options)
    return build_learner(options.objective, options.optimisation, TASKS["segmentation"], student, teacher, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_rates_and_groups_are_the_originals(recipe, tmp_path):
    num_steps, first, expected = RECIPES[recipe]
    options = options_of(recipe, tmp_path)
    learner = learner_of(options)
    assert options.optimisation.num_steps == num_steps
    groups = learner.optimizer.param_groups
    found = [sum(parameter.numel() for parameter in group["params"]) for group in groups]
    assert sorted(found) == sorted(group.num_parameters for group in expected)
    for step in (0, 1, num_steps // 10, num_steps // 2, num_steps - 1):
        rates = {}
        for group, count, base in zip(groups, found, learner.base_rates, strict=True):
            rates[count] = base if group.get("constant") else base * learner.schedule(step / num_steps)
        theirs = {group.num_parameters: group.rate(step) for group in expected}
        # What counts from 1 is a step ahead.
        ahead = abs(expected[0].rate(step + first) - expected[0].rate(step)) if step + first < num_steps else 1.0
        assert rates == pytest.approx(theirs, rel=1e-9, abs=ahead if first else 0), step
    decays = {count: group["weight_decay"] for count, group in zip(found, groups, strict=True)}
    assert decays == {group.num_parameters: group.decay for group in expected}
    assert all(group.get("momentum", 0.9) == 0.9 for group in groups)
    kind = torch.optim.AdamW if "segformer" in recipe else torch.optim.SGD
    assert type(learner.optimizer) is kind


SKD = {"scale_range": (0.7, 2.1), "scale_step": 0.1, "random_mirror": True, "batch_size": 8, "task_weight": 1}
PLAIN = {"input_size": (512, 512), "random_scale": False, "random_mirror": False, "batch_size": 8, "task_weight": 1}
CIRKD = {"scale_range": (0.5, 2.0), "scale_step": 0.1, "random_mirror": True, "task_weight": 1}
# Batch, scale, crops, mirroring and colours, and the weight of cross-entropy.
SETTINGS = {
    # SKD run_train_val.sh:12-17, utils/train_options.py (--input-size), dataset/datasets.py:158
    "skd_cityscapes": {**SKD, "input_size": (512, 512)},
    "skd_nyuv2": {**SKD, "input_size": (480, 640)},  # the images' size
    # exp_cwd.sh and IFVD's README give neither --random-scale nor --random-mirror; options.py
    "cwd_cityscapes": PLAIN,
    "cwd_cityscapes channel kl 50 1 False False True": PLAIN,
    "ifvd_cityscapes": PLAIN,
    # CIRKD dataset/cityscapes.py:52,100, train_cirkd.py (--crop-size, --batch-size)
    "cirkd_deeplabv3_r18": {**CIRKD, "input_size": (512, 1024), "batch_size": 16},
    # scripts/train_cirkdv2/cityscapes/deeplabv3_resnet18.sh:7, segformer_b0.sh:9-11
    "cirkdv2_deeplabv3_r18": {**CIRKD, "input_size": (512, 1024), "batch_size": 8},
    "cirkdv2_segformer_b0": {**CIRKD, "input_size": (1024, 1024), "batch_size": 8},
    # DIST segmentation/dataset/datasets.py:52, train_kd.py (--crop-size, --batch-size)
    "dist_deeplabv3_r18": {**CIRKD, "input_size": (512, 1024), "batch_size": 16},
    "dist_pspnet_r18": {**CIRKD, "input_size": (512, 1024), "batch_size": 16},
    # AKD dataloaders/custom_transforms.py:77-122, train_kd.py (batch of 6 a device), utils/loss.py:30-31
    "voc_deeplabv3plus": {
        **{"short_side": (256, 1026), "random_mirror": True, "augment": ("blur=0.5",), "input_size": (513, 513)},
        **{"batch_size": 6, "task_weight": pytest.approx(1 / 6)},
    },
    # SegFormer local_configs/_base_/datasets/cityscapes_1024x1024_repeat.py:10-13; 8 devices of 1 image, B0/...:38
    "segformer_b0": {
        **{"scale_range": (0.5, 2.0), "max_class_share": 0.75, "random_mirror": True, "augment": ("photometric=1.0",)},
        **{"input_size": (1024, 1024), "batch_size": 8, "task_weight": 1},
    },
}
KD_MEAN = {
    "method": "kd",
    "weight": pytest.approx(10 / 19, rel=1e-3),
    "temperature": 1,
}  # 10, a mean over 19 classes too
ADAM_CRITIC = {"method": "ho", "weight": 0.001, "kind": "wgan-gp", "lambda_gp": 10, "lr": 4e-4, "optimizer": "adam"}
SKD_TERMS = [
    {"method": "pi", "weight": 10 * 8},  # utils/criterion.py:211-226 divides by H W alone
    {"method": "pa", "weight": 0.5, "pool_scale": 0.5, "on": "context"},
    {"method": "ho", "weight": 0.1, "kind": "wgan-gp", "lambda_gp": 10, "lr": 4e-4, "optimizer": "sgd"},
]
CIRKD_TERMS = [
    {"method": "kd", "weight": 1, "temperature": 1},
    {"method": "cirkd", "weight": 1, "temperature": 0.1},
]
MEMORY = {"method": "cirkd-memory", "temperature": 0.1, "region_queue": 2000, "pixel_contrast": 4096}
MEMORY |= {"region_contrast": 1024}
V2_CHANNEL = {"method": "cirkd-channel", "weight": 1, "batch": 1, "memory": 0.1, "mse": 100, "queue": 10_000}
V2_CHANNEL |= {"contrast": 2048}
DIST_TERMS = [{"method": "dist", "weight": 1, "on": "logits"}, {"method": "dist", "weight": 0.4, "on": "aux_logits"}]
# The terms, as the originals' scripts and their options' defaults have them.
TERMS = {
    # SKD run_train_val.sh:4-5,21-24, utils/train_options.py (--lambda-gp, --lr-d)
    "skd_cityscapes": SKD_TERMS,
    "skd_nyuv2": SKD_TERMS,
    # SemSeg-distill/README.md, options.py
    "cwd_cityscapes": [{"method": "cwd", "weight": 3, "temperature": 4, "norm": "channel", "on": "logits"}],
    "cwd_cityscapes channel kl 3 4 True True False": [
        {"method": "cwd", "weight": 3, "temperature": 4, "norm": "channel", "on": "logits"},
        KD_MEAN,
        ADAM_CRITIC,
    ],
    # networks/kd_model.py:113-117
    "cwd_cityscapes channel kl 50 1 False False True": [
        {
            "method": "cwd",
            "weight": 50,
            "temperature": 1,
            "on": "context",
            "adapter": "conv_bn_relu",
            "adapter_lr": 1e-2,
        }
    ],
    # IFVD options.py
    "ifvd_cityscapes": [{"method": "ifvd", "weight": 200, "on": "context"}, KD_MEAN, ADAM_CRITIC],
    # CIRKD train_cirkd.py, its options' defaults
    "cirkd_deeplabv3_r18": [*CIRKD_TERMS, {**MEMORY, "weight": 0.1, "pixel": 1, "region": 1, "pixel_queue": 20_000}],
    # scripts/train_cirkdv2/cityscapes/deeplabv3_resnet18.sh:10-13, segformer_b0.sh:13-25
    "cirkdv2_deeplabv3_r18": [
        *CIRKD_TERMS,
        {**MEMORY, "weight": 1, "pixel": 0.1, "region": 0.1, "pixel_queue": 20_000},
        V2_CHANNEL,
        {"method": "fitnet", "weight": 1, "graph": True, "on": "context"},
    ],
    "cirkdv2_segformer_b0": [
        *CIRKD_TERMS,
        {**MEMORY, "weight": 1, "pixel": 0.1, "region": 0.1, "pixel_queue": 2000},
        V2_CHANNEL,
        {"method": "fitnet", "weight": 1, "graph": False, "on": "context"},
    ],
    # DIST segmentation/train_kd.py (--lambda-kd)
    "dist_deeplabv3_r18": DIST_TERMS,
    "dist_pspnet_r18": DIST_TERMS,
    # AKD's README, distiller.py of commit 037324e
    "voc_deeplabv3plus": [
        {"method": "at", "weight": 100, "over": "column", "on": "context.pre"},
        {"method": "pa", "weight": 1, "pool_scale": 0.5, "on": "aspp.pre"},
    ],
}


@pytest.mark.parametrize("recipe", SETTINGS | TERMS)
def test_settings_and_terms_are_the_originals(recipe, tmp_path):
    options = options_of(recipe, tmp_path)
    found, expected = flat(options), SETTINGS.get(recipe, {})
    assert {name: found[name] for name in expected} == expected
    if recipe in TERMS:
        terms = {
            (term.method, term.settings["on"]): {"method": term.method, **term.settings} for term in found["terms"]
        }
        assert len(terms) == len(TERMS[recipe])
        for theirs in TERMS[recipe]:
            (ours,) = (
                ours
                for (method, on), ours in terms.items()
                if method == theirs["method"] and theirs.get("on", on) == on
            )
            assert {name: ours[name] for name in theirs} == theirs


def test_every_recipe_with_an_original_is_compared():
    ours = {"common", "compare", "cityscapes_hours", "long_plain", "search"}
    ours |= {path.stem for path in (ROOT / "experiments").glob("camvid_*.sh")}
    scripts = {path.stem for path in (ROOT / "experiments").glob("*.sh")} - ours
    assert scripts == {recipe.split()[0] for recipe in RECIPES} == {recipe.split()[0] for recipe in SETTINGS}
