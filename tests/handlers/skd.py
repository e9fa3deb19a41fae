"""Structured knowledge distillation (SKD): losses and discriminator."""

import torch
from golden_cases import LOSSES, SKD, Case, Result, hashed_state_dict
from torch import Tensor

from segdistill.network import SegmentationOutput
from segdistill.network.discriminator import Discriminator, SelfAttention, SpectralConv2d, rename_original
from segdistill.utils.batch import Batch
from segdistill.utils.losses import (
    TaskLoss,
    critic_loss,
    generator_loss,
    gradient_penalty,
    pair_wise_loss,
    pixel_wise_loss,
)


def supervise(case: Case, inputs: dict[str, Tensor], aux_weight: float = 0.4, **options) -> Result:
    output = SegmentationOutput(inputs["student"], {"aux_logits": inputs["student_aux"]})
    labels = inputs["target"].masked_fill(inputs["target"] == case.parameters["ignore_index"], 255)
    batch = Batch(torch.empty(0), labels, torch.empty(0), (labels != 255).sum(), 0.0)
    return Result(TaskLoss(aux_weight, **options)(output, batch))


@LOSSES.register(SKD, source_file="criterion.py", parameters=["aux_weight"])
def deep_supervision(case: Case, inputs: dict[str, Tensor]) -> Result:
    return supervise(case, inputs, aux_weight=case.parameters["aux_weight"])


@LOSSES.register(SKD, source_file="criterion.py", parameters=["thresh", "min_kept"])
def ohem(case: Case, inputs: dict[str, Tensor]) -> Result:
    settings = {"threshold": case.parameters["thresh"], "min_kept": case.parameters["min_kept"]}
    return supervise(case, inputs, ohem=settings)


@LOSSES.register(SKD, computes="CriterionPixelWise")
def pixel_wise(case: Case, inputs: dict[str, Tensor]) -> Result:
    return Result(pixel_wise_loss(inputs["student"], inputs["teacher"], reduction="original"))


@LOSSES.register(SKD, parameters=["scale"])
def pair_wise(case: Case, inputs: dict[str, Tensor]) -> Result:
    return Result(pair_wise_loss(inputs["student"], inputs["teacher"], case.parameters["scale"], reduction="original"))


@LOSSES.register(SKD, computes=r"CriterionAdv\b", parameters=["adv_type"])
def critic(case: Case, inputs: dict[str, Tensor]) -> Result:
    return Result(critic_loss(inputs["student"], inputs["teacher"], case.parameters["adv_type"]))


@LOSSES.register(SKD, computes="CriterionAdvForG", parameters=["adv_type"])
def generator(case: Case, inputs: dict[str, Tensor]) -> Result:
    return Result(generator_loss(inputs["student"], case.parameters["adv_type"]))


def build_discriminator(case: Case, dtype: torch.dtype) -> Discriminator:
    """The discriminator of the case with hashed weights, which pass through ``rename_original``."""
    channels, mode = case.parameters["input_channel"], case.parameters["preprocess_GAN_mode"]
    width = case.parameters.get("conv_dim", 64)
    discriminator = Discriminator(channels, mode, width)
    entries = original_entries(channels, width, batch_norm=mode == 1)
    discriminator.load_state_dict(rename_original(hashed_state_dict(entries)))
    return discriminator.train(case.parameters["training"]).to(dtype)


def original_entries(channels: int, width: int, batch_norm: bool) -> list[dict]:
    """Keys and shapes of the original discriminator."""
    shapes = {}
    inner = channels
    for layer, outer in enumerate((width, 2 * width, 4 * width, 8 * width), start=1):
        name = f"l{layer}.0.module"
        shapes[f"{name}.bias"] = shapes[f"{name}.weight_u"] = [outer]
        shapes[f"{name}.weight_v"] = [16 * inner]
        shapes[f"{name}.weight_bar"] = [outer, inner, 4, 4]
        inner = outer
    shapes["last.0.weight"], shapes["last.0.bias"] = [1, inner, 4, 4], [1]
    for name, size in (("attn1", 4 * width), ("attn2", 8 * width)):
        shapes[f"{name}.gamma"] = [1]
        for part, outer in (("query", size // 8), ("key", size // 8), ("value", size)):
            shapes[f"{name}.{part}_conv.weight"], shapes[f"{name}.{part}_conv.bias"] = [outer, size, 1, 1], [outer]
    if batch_norm:
        shapes |= {f"preprocess_additional.{key}": [channels] for key in ("weight", "bias", "running_mean")}
        shapes |= {"preprocess_additional.running_var": [channels], "preprocess_additional.num_batches_tracked": []}
    return [{"key": key, "shape": shape} for key, shape in shapes.items()]


@LOSSES.register(SKD, source_file="sagan")
def discriminator_forward(case: Case, inputs: dict[str, Tensor]) -> Result:
    discriminator = build_discriminator(case, inputs["student"].dtype)
    maps = []
    for module in discriminator.modules():
        if isinstance(module, SelfAttention):
            module.register_forward_hook(lambda module, args, _: maps.append(module.attention(*args)))
    outputs = {f"uv_before.{key}": value for key, value in singular_vectors(discriminator).items()}
    score = discriminator(inputs["student"])
    outputs |= {f"uv_after.{key}": value for key, value in singular_vectors(discriminator).items()}
    step = slice(None, None, -(-maps[0].shape[1] // case.array("attn1_sub").shape[1]))
    outputs |= {"attn1_sub": maps[0][:, step, step], "attn1_rowsum": maps[0].sum(-1), "attn2": maps[1]}
    outputs |= {"d_out": score, "d_out_second_call": discriminator(inputs["student"])}
    return Result(score.mean(), outputs=outputs)


def singular_vectors(discriminator: Discriminator) -> dict[str, Tensor]:
    vectors = {}
    for name, module in discriminator.named_modules():
        if isinstance(module, SpectralConv2d):
            original = name.replace("conv", "l") + ".0.module"
            vectors[f"{original}.weight_u"], vectors[f"{original}.weight_v"] = module.u.clone(), module.v.clone()
    return vectors


@LOSSES.register(SKD, computes="GP", parameters=["lambda_gp"])
def penalty(case: Case, inputs: dict[str, Tensor]) -> Result:
    discriminator = build_discriminator(case, inputs["student"].dtype)
    alpha = torch.from_numpy(case.array("alpha"))
    value = gradient_penalty(discriminator, inputs["student"], inputs["teacher"], alpha)
    ours = dict(discriminator.named_parameters())
    names = [key.removeprefix("grad.param:") for key in case.arrays if key.startswith("grad.param:")]
    parameters = {name: ours[next(iter(rename_original({name: None})))] for name in names}
    return Result(case.parameters["lambda_gp"] * value, parameters)
