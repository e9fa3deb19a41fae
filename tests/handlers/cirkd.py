"""CIRKD: its own terms and its copies of others'."""

import torch
import torch.nn.functional as F
from golden_cases import CIRKD, LOSSES, MMRAZOR, Case, Result, hashed_array
from torch import Tensor

from handlers.skd import build_discriminator
from segdistill.network.discriminator import SelfAttention
from segdistill.utils.losses import (
    attention_loss,
    category_similarity_loss,
    channel_wise_loss,
    critic_loss,
    cross_entropy_loss,
    cross_image_loss,
    fitnet_loss,
    generator_loss,
    pair_wise_loss,
    pixel_similarity_loss,
)


@LOSSES.register(CIRKD, source_file="task", parameters=["ignore_index"])
def cross_entropy(case: Case, inputs: dict[str, Tensor]) -> Result:
    return Result(cross_entropy_loss(inputs["student"], inputs["target"], case.parameters["ignore_index"]))


@LOSSES.register(CIRKD, computes=r"CriterionAdv\b", parameters=["adv_type"])
def critic(case: Case, inputs: dict[str, Tensor]) -> Result:
    return Result(critic_loss(inputs["student"], inputs["teacher"], case.parameters["adv_type"]))


@LOSSES.register(CIRKD, computes="CriterionAdvForG", parameters=["adv_type"])
def generator(case: Case, inputs: dict[str, Tensor]) -> Result:
    return Result(generator_loss(inputs["student"], case.parameters["adv_type"]))


@LOSSES.register(CIRKD, source_file="sagan")
def discriminator(case: Case, inputs: dict[str, Tensor]) -> Result:
    network = build_discriminator(case, inputs["student"].dtype)
    maps = []
    for module in network.modules():
        if isinstance(module, SelfAttention):
            module.register_forward_hook(lambda module, args, _: maps.append(module.attention(*args)))
    score = network(inputs["student"])
    return Result(score.mean(), outputs={"d_out": score, "attn2": maps[1]})


@LOSSES.register(CIRKD, source_file="skd")
def structural(case: Case, inputs: dict[str, Tensor]) -> Result:
    return Result(pair_wise_loss(inputs["student"], inputs["teacher"], window=2))


@LOSSES.register(CIRKD, MMRAZOR, computes=r"^(CriterionAT|ATLoss)\b")
def attention_transfer(case: Case, inputs: dict[str, Tensor]) -> Result:
    loss = attention_loss(inputs["student"], inputs["teacher"], case.parameters.get("p", 2))
    return Result(case.parameters.get("loss_weight", 1) * loss)


def projected(case: Case, student: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The student's map through the 1x1 convolution that the original makes for these channels."""
    shape = (case.parameters["t_channels"], case.parameters["s_channels"], 1, 1)
    weight = torch.from_numpy(hashed_array("conv.weight", shape)).float().to(student.dtype).requires_grad_()
    return F.conv2d(student, weight), {"conv.weight": weight}


@LOSSES.register(CIRKD, source_file="fitnet", parameters=["s_channels", "t_channels"])
def fitnet(case: Case, inputs: dict[str, Tensor]) -> Result:
    student, parameters = projected(case, inputs["student"])
    return Result(fitnet_loss(student, inputs["teacher"]), parameters)


@LOSSES.register(CIRKD, source_file="cwd", parameters=["norm_type", "divergence", "temperature"])
def channel_wise(case: Case, inputs: dict[str, Tensor]) -> Result:
    settings, student, parameters = case.parameters, inputs["student"], {}
    if student.shape[1] != inputs["teacher"].shape[1]:
        student, parameters = projected(case, student)
    loss = channel_wise_loss(
        student,
        inputs["teacher"],
        settings["temperature"],
        settings["norm_type"],
        settings["divergence"],
        reduction="original",
    )
    if settings["norm_type"] in ("channel", "channel_mean"):
        # The original divides by the channels that the student had before its convolution.
        loss = loss * (student.shape[1] / inputs["student"].shape[1])
    return Result(loss, parameters)


@LOSSES.register(CIRKD, source_file="dsd", parameters=["levels"])
def pixel_similarity(case: Case, inputs: dict[str, Tensor]) -> Result:
    student, teacher = ([inputs[f"{who}{k}"] for k in range(case.parameters["levels"])] for who in "st")
    return Result(pixel_similarity_loss(student, teacher))


@LOSSES.register(CIRKD, source_file="dsd", parameters=["tau"])
def category_similarity(case: Case, inputs: dict[str, Tensor]) -> Result:
    return Result(category_similarity_loss(inputs["student"], inputs["teacher"], case.parameters["tau"]))


@LOSSES.register(CIRKD, source_file="mini_batch", parameters=["temperature"])
def mini_batch(case: Case, inputs: dict[str, Tensor]) -> Result:
    if "tile" in inputs:  # large maps are stored as a small one, each element of which scales the tile
        inputs = {who: torch.kron(inputs[f"{who}_low"], inputs["tile"][None, None]) for who in ("student", "teacher")}
    return Result(cross_image_loss(inputs["student"], inputs["teacher"], case.parameters["temperature"]))
