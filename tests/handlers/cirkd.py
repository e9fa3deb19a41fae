"""CIRKD: its own terms and its copies of others'."""

import torch
import torch.nn.functional as F
from golden_cases import CIRKD, LOSSES, MMRAZOR, Case, Result, hashed_array, hashed_state_dict
from torch import Tensor, nn

from handlers.skd import build_discriminator
from segdistill.network.discriminator import SelfAttention
from segdistill.utils.losses import (
    attention_loss,
    category_similarity_loss,
    channel_relation_losses,
    channel_wise_loss,
    critic_loss,
    cross_entropy_loss,
    cross_image_loss,
    fitnet_loss,
    generator_loss,
    memory_loss,
    pair_wise_loss,
    pixel_similarity_loss,
)
from segdistill.utils.losses.base import average_pool, unit_vectors
from segdistill.utils.losses.cirkd_memory import class_regions, projection
from segdistill.utils.losses.fitnet import GraphBlock


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


@LOSSES.register(CIRKD, source_file="gcn", parameters=["plane"])
def graph_block(case: Case, inputs: dict[str, Tensor]) -> Result:
    module = GraphBlock(case.parameters["plane"])
    original = {"query": "node_q", "key": "node_k", "value": "node_v", "widen": "conv1", "merge": "out_conv"}
    names = {f"{original[name.split('.')[0]]}.{name.partition('.')[2]}": name for name in module.state_dict()}
    entries = [{"key": key, "shape": module.state_dict()[name].shape} for key, name in names.items()]
    module.load_state_dict({names[key]: value for key, value in hashed_state_dict(entries).items()})
    module.train(case.parameters.get("training", False)).to(inputs["student"].dtype)
    out = module(inputs["student"])
    return Result(out.square().mean(), outputs={"out": out[:, ::3]})


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


def build_projection(case: Case, student: Tensor, teacher: Tensor) -> tuple[nn.Module, dict[str, Tensor]]:
    """The projection with hashed weights, and its parameters in the original's names."""
    prefix = "project_head."
    module = projection(student.shape[1], teacher.shape[1])
    entries = [{"key": prefix + name, "shape": list(value.shape)} for name, value in module.state_dict().items()]
    hashed = hashed_state_dict(entries)
    module.load_state_dict({name.removeprefix(prefix): value for name, value in hashed.items()})
    module.train(case.parameters["training"]).to(student.dtype)
    return module, {prefix + name: parameter for name, parameter in module.named_parameters()}


def recorded(case: Case, name: str, dtype: torch.dtype | None = None) -> Tensor:
    return torch.from_numpy(case.array(name)).clone().to(dtype)


def enter(ring: Tensor, head: Tensor, vectors: Tensor) -> None:
    """Write into a ring (size, D) as the originals do: what does not fit before the end goes to the last places."""
    count = len(vectors)
    if head + count >= len(ring):
        ring[-count:] = vectors
        head.zero_()
    else:
        ring[head : head + count] = vectors
        head += count


@LOSSES.register(CIRKD, source_file="cirkd_memory", parameters=["pixel_memory_size", "region_memory_size"])
def memory(case: Case, inputs: dict[str, Tensor]) -> Result:
    """The queues are written first, by the original's rules, with its random draws."""
    settings, student, teacher = case.parameters, inputs["student"], inputs["teacher"]
    size, num_classes = student.shape[2:], settings["num_classes"]
    labels = F.interpolate(inputs["target"][:, None].float(), size)[:, 0].to(torch.uint8)
    labels[labels == settings["ignore_label"]] = 255
    vectors = unit_vectors(teacher.detach().flatten(2).transpose(1, 2), dim=2)
    pixels, regions = (recorded(case, f"{kind}_queue_before", student.dtype) for kind in ("pixel", "segment"))
    pixel_heads, region_heads = (recorded(case, f"{kind}_ptr_before") for kind in ("pixel", "segment"))
    draws = iter(recorded(case, "perm_enqueue_concat").split(recorded(case, "perm_enqueue_lengths").tolist()))
    for image, label in zip(vectors, labels.flatten(1), strict=True):
        for region, class_id in zip(*class_regions(image[None], label[None], num_classes), strict=True):
            if class_id == 255:  # the image has no such class
                continue
            regions[class_id, region_heads[class_id]] = region
            region_heads[class_id] = (region_heads[class_id] + 1) % settings["region_memory_size"]
            # The original draws among the pixels of the class, and takes the draws for places in the image.
            chosen = next(draws)[: settings["pixel_update_freq"]]
            enter(pixels[class_id], pixel_heads[class_id], image[chosen])

    module, parameters = build_projection(case, student, teacher)
    kind, queue = ("pixel", pixels) if "pixel_sim" in case["computes"] else ("region", regions)
    slots = recorded(case, f"perm_{kind}_contrast")[: settings[f"{kind}_contrast_size"]]
    bank = queue[:, slots].flatten(0, 1)
    sharpness = settings["contrast_kd_temperature"]
    temperature = settings["contrast_temperature"] * sharpness
    loss = memory_loss(module(student), teacher, bank, temperature, valid=labels != 255)
    outputs = {
        "pixel_queue_after": pixels,
        "segment_queue_after": regions,
        "pixel_ptr_after": pixel_heads,
        "segment_ptr_after": region_heads,
    }
    return Result(sharpness**2 * loss, parameters, outputs)


@LOSSES.register(CIRKD, source_file="cirkd_channel", parameters=["channel_memory_size", "contrast_temperature"])
def channel_memory(case: Case, inputs: dict[str, Tensor]) -> Result:
    settings = case.parameters
    student, teacher = (average_pool(inputs[who], 4)[0] for who in ("student", "teacher"))
    module, parameters = build_projection(case, student, teacher)
    queue, head = recorded(case, "queue_before", student.dtype), recorded(case, "ptr_before")
    chosen = recorded(case, "perm_enqueue")[: settings["channel_update_freq"]]
    enter(queue, head, unit_vectors(teacher.detach().flatten(2).flatten(0, 1), dim=1)[chosen])
    bank = queue[recorded(case, "perm_contrast")[: settings["channel_contrast_size"]]]

    temperature, sharpness = settings["contrast_temperature"], settings["contrast_kd_temperature"]
    student = module(student)
    batch, _, mse = channel_relation_losses(student, teacher, bank, temperature)
    memory = sharpness**2 * channel_relation_losses(student, teacher, bank, temperature * sharpness).memory
    losses = {"batch_loss_f64": batch, "memory_loss_f64": memory, "mse_loss_f64": mse}
    loss = list(losses.values())[int(case["computes"].rsplit(maxsplit=1)[1])]
    return Result(loss, parameters, losses | {"queue_after": queue, "ptr_after": head})
