"""Universal heads of transformers: their logits' argmax is the library's own post-processing, from random configs."""

import json

import pytest
import torch

from segdistill.dataset import CamVid, Sample
from segdistill.network import build_network
from segdistill.network.base import freeze_unused
from segdistill.network.external.hf_universal import SEMANTIC_TASK, Windows
from segdistill.network.weights.checkpoint import atomic_save, describe, export_weights, load_network
from segdistill.utils.batch import make_batches
from segdistill.utils.classes import match_classes
from segdistill.utils.learner import Learner, Objective
from segdistill.utils.losses import TaskLoss, build_losses
from segdistill.utils.options import name_terms
from segdistill.utils.teacher import Teacher

transformers = pytest.importorskip("transformers")
NUM_CLASSES = 11
STAGES = ["stage1", "stage2", "stage3", "stage4"]
RESNET = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
    "layer_type": "basic", "out_features": STAGES,
}  # fmt: skip
SWIN = {"model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
DECODER = {
    "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 16, "encoder_layers": 1,
    "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 16, "num_queries": 12,
}  # fmt: skip
VIT = {
    "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64, "patch_size": 16,
    "num_blocks": 1, "num_queries": 12, "num_upscale_blocks": 2, "intermediate_size": 32,
}  # fmt: skip
SMALL = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
CONFIGS = {
    "detr": {**SMALL, "encoder_attention_heads": 8, "decoder_attention_heads": 8, "num_queries": 12}
    | {"d_model": 64, "backbone_config": RESNET},
    "eomt": VIT,
    "eomt_dinov3": VIT,
    "mask2former": {**DECODER, "backbone_config": {**SWIN, "out_features": STAGES}},
    "maskformer": {
        "fpn_feature_size": 32, "mask_feature_size": 32, "backbone_config": SWIN,
        "decoder_config": {"model_type": "detr", **SMALL, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
        | {"num_queries": 12},
    },
    "oneformer": {
        "backbone_config": {**SWIN, "out_features": STAGES}, "conv_dim": 32, "mask_dim": 32, "hidden_dim": 32,
        "encoder_feedforward_dim": 16, "dim_feedforward": 16, "encoder_layers": 1, "decoder_layers": 3,
        "num_attention_heads": 2, "num_queries": 12, "text_encoder_width": 16, "text_encoder_num_layers": 1,
        "query_dec_layers": 1, "is_training": True,
    },
    "videomt": VIT,
}  # fmt: skip
SIZES = [(64, 96), (97, 64), (70, 131)]
each_family = pytest.mark.parametrize("family", CONFIGS)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A function that builds a family's network from its config, once."""
    networks, folder = {}, tmp_path_factory.mktemp("universal")

    def build(family):
        if family not in networks:
            (folder / f"{family}.json").write_text(json.dumps({"model_type": family, **CONFIGS[family]}))
            torch.manual_seed(0)
            networks[family] = build_network(f"hf:{folder / f'{family}.json'}", NUM_CLASSES)
        return networks[family].eval()

    return build


def lively(module, inputs, output):
    """A hook: queries that differ from pixel to pixel, which those of random weights hardly do."""
    generator = torch.Generator().manual_seed(0)
    for name in ("class_queries_logits", "masks_queries_logits", "logits", "pred_masks"):
        if name in output:
            output[name] = output[name] + 3 * torch.randn(output[name].shape, generator=generator)
    return output


def by_the_library(family, model, images):
    """The scores (N, C, H, W) of the library's own post-processing."""
    size = tuple(images.shape[2:])
    words = {"target_sizes": [size] * len(images), "return_segmentation_scores": True}
    if family.startswith("eomt"):
        processor = transformers.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": None})
        windows = Windows(size, 64)
        offsets = [[index, start, start + 64] for start in windows.starts for index in range(len(images))]
        output = model(windows.cut(images), patch_offsets=[torch.tensor(offset) for offset in offsets])
    elif family == "videomt":
        processor = transformers.VideomtVideoProcessor()
        square = torch.nn.functional.interpolate(images, (64, 64), mode="bilinear", align_corners=False, antialias=True)
        output = model(square[:, None])
    elif family == "oneformer":
        processor = transformers.OneFormerImageProcessor(repo_path=None, class_info_file=None)
        task = torch.zeros(len(images), model.config.task_seq_len, dtype=torch.long)
        task[:, : len(SEMANTIC_TASK)] = torch.tensor(SEMANTIC_TASK)
        output = model(images, task)
    else:
        kinds = {"detr": "Detr", "mask2former": "Mask2Former", "maskformer": "MaskFormer"}
        processor = getattr(transformers, f"{kinds[family]}ImageProcessor")()
        output = model(images)
    answers = processor.post_process_semantic_segmentation(output, **words)
    return torch.stack([answer.segmentation for answer in answers]), torch.stack(
        [answer.segmentation_scores for answer in answers]
    )


def test_every_universal_head_of_the_library_is_tested():
    from transformers.models.auto.modeling_auto import MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES as KNOWN

    assert KNOWN.keys() == CONFIGS.keys()


@each_family
@pytest.mark.parametrize("size", SIZES)
def test_the_classes_are_the_library_s_own(family, size, built):
    network = built(family)
    torch.manual_seed(1)
    images = torch.randn(2, 3, *size)
    handle = network.model.register_forward_hook(lively)
    with torch.no_grad():
        logits = network(images).logits
        classes, scores = by_the_library(family, network.model, images)
    handle.remove()
    assert logits.shape == (2, NUM_CLASSES, *size)
    best, second = scores.topk(2, dim=1).values.unbind(1)
    clear = best - second > 1e-5 * best
    assert clear.float().mean() > 0.9
    assert classes.unique().numel() > 2
    assert torch.equal(logits.argmax(1)[clear], classes[clear])
    torch.testing.assert_close(logits.exp(), scores)


@each_family
@pytest.mark.parametrize("size", [(64, 64), (99, 161)])
def test_stages_and_embedding_have_the_declared_channels_and_strides(family, size, built):
    network = built(family)
    assert network.features.keys() == {"layer1", "layer2", "layer3", "layer4", "context", "logits"}
    with torch.no_grad():
        maps = network(torch.randn(2, 3, *size), network.features).features
    for name, (channels, stride) in network.features.items():
        assert maps[name].shape[:2] == (2, channels), name
        assert all(abs(a - b / stride) <= 1 for a, b in zip(maps[name].shape[2:], size, strict=True)), name
    assert network.features["logits"] == (NUM_CLASSES, 1)


@each_family
def test_a_student_trains_and_its_checkpoint_is_the_same_network(family, built, tmp_path):
    network = built(family).train()
    freeze_unused(network, {"logits"})
    network(torch.randn(2, 3, 64, 64)).logits.square().mean().backward()
    assert any(value.grad is not None and value.grad.abs().sum() > 0 for value in network.parameters())
    network.zero_grad()
    network.requires_grad_(True).eval()
    atomic_save(export_weights(network, CamVid.NORMALIZATION), tmp_path / "best.pth")
    copy, _ = load_network(tmp_path / "best.pth")
    images = torch.randn(1, 3, 70, 90)
    with torch.no_grad():
        assert torch.equal(copy(images).logits, network(images).logits)


def test_windows_are_joined_to_the_image_that_they_were_cut_from():
    images = torch.randn(2, 3, 64, 150)
    windows = Windows((64, 150), 64)
    torch.testing.assert_close(windows.join(windows.cut(images)), images)
    assert windows.cut(images).shape == (6, 3, 64, 64)


def test_a_folder_brings_names_convention_and_the_whole_image(tmp_path):
    names = dict(enumerate(CamVid.CLASSES))
    config = transformers.EomtConfig(**VIT, id2label=names)
    transformers.EomtForUniversalSegmentation(config).save_pretrained(tmp_path)
    transformers.EomtImageProcessor(do_split_image=False, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(
        tmp_path
    )
    network = build_network(f"hf:{tmp_path}", None, pretrained=True)
    assert network.num_classes == len(CamVid.CLASSES)
    assert match_classes(network, describe(network), "teacher", CamVid).is_identity
    assert network.normalization.mean == (127.5,) * 3
    assert network.config["hf_processor"] == {"do_split_image": False}
    assert not network.reader.splits


@pytest.mark.slow
@each_family
def test_it_teaches_a_pspnet(family, built):
    network = built(family)
    torch.manual_seed(0)
    student = build_network("pspnet", NUM_CLASSES, backbone="resnet18_v1s")
    teacher = Teacher(network, CamVid.NORMALIZATION, CamVid.NORMALIZATION)
    terms = name_terms([("pi", {}), ("cwd", {"on": "logits"}), ("fitnet", {"on": "layer4"})])
    objective = Objective(student, TaskLoss(), build_losses(terms, student, teacher.network))
    learner = Learner(objective, torch.optim.SGD(objective.parameters(), 1e-2, 0.9), clip_norm=10.0)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    labels = torch.randint(0, NUM_CLASSES, (2, 64, 64), dtype=torch.uint8)
    sample = Sample(images, labels, ["a", "b"], torch.zeros(2, 2, dtype=torch.long))
    for _ in range(5):
        for batch in make_batches(sample, CamVid.NORMALIZATION):
            learner.accumulate(batch, teacher(batch, learner.wanted))
        row = learner.update()
        assert {"loss/pi", "loss/cwd", "loss/fitnet"} <= row.keys()
        assert all(torch.tensor(list(row.values())).isfinite().all() for _ in row)


def test_scores_of_a_teacher_in_half_precision_are_summed_in_full(built):
    network, images = built("eomt"), torch.randn(1, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network(images).logits.dtype == torch.float32
