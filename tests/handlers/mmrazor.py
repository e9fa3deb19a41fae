"""mmrazor: its losses on feature maps and logits. Defaults are those of its constructors."""

import torch.nn.functional as F
from golden_cases import LOSSES, MMRAZOR, Case, Result, hashed_state_dict
from torch import Tensor

from segdistill.utils.losses import (
    activation_boundary_loss,
    attended_distance,
    channel_wise_loss,
    hard_label_loss,
    mimic_loss,
    overhaul_loss,
    pearson_loss,
    relational_loss,
    weighted_soft_label_loss,
)
from segdistill.utils.losses.fitnet import fitnet_loss
from segdistill.utils.losses.mgd import MaskedGenerative


def weight(case: Case, default: float = 1.0) -> float:
    return case.parameters.get("loss_weight", default)


def maps(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Student and teacher; vectors (N, C) as maps of one position."""
    pair = inputs["student"], inputs["teacher"]
    return tuple(x[:, :, None, None] if x.dim() == 2 else x for x in pair)


@LOSSES.register(MMRAZOR, source_file=r"/cwd\.py")
def channel_wise(case: Case, inputs: dict[str, Tensor]) -> Result:
    tau = case.parameters.get("tau", 1.0)
    return Result(weight(case) * channel_wise_loss(*maps(inputs), tau, reduction="original"))


@LOSSES.register(MMRAZOR, source_file="ofd_loss")
def overhaul(case: Case, inputs: dict[str, Tensor]) -> Result:
    total = overhaul_loss(*maps(inputs), reduction="original")
    return Result(weight(case) * total / len(inputs["student"]) / case.parameters.get("mul_factor", 1000.0))


@LOSSES.register(MMRAZOR, source_file="ab_loss")
def activation_boundary(case: Case, inputs: dict[str, Tensor]) -> Result:
    mean = activation_boundary_loss(*maps(inputs), case.parameters.get("margin", 1.0))
    return Result(weight(case) * mean * inputs["student"][0].numel() * 3 / 1000)


@LOSSES.register(MMRAZOR, source_file="factor_transfer")
def factor_transfer(case: Case, inputs: dict[str, Tensor]) -> Result:
    mean = mimic_loss(*maps(inputs), "l1", normalize=True)
    return Result(weight(case) * mean / inputs["student"][0].numel() ** 0.5)


@LOSSES.register(MMRAZOR, source_file="l1_loss")
def l1(case: Case, inputs: dict[str, Tensor]) -> Result:
    num = {"mean": 1, "sum": inputs["student"].numel()}[case.parameters.get("reduction", "mean")]
    return Result(weight(case) * mimic_loss(*maps(inputs), "l1") * num)


@LOSSES.register(MMRAZOR, source_file="l2_loss")
def l2(case: Case, inputs: dict[str, Tensor]) -> Result:
    settings, student = case.parameters, inputs["student"]
    normalize = settings.get("normalize", True)
    mean = mimic_loss(*maps(inputs), "l2", normalize)
    if normalize:  # to length mult, ours to the root of the number of elements
        mean = mean * settings.get("mult", 1.0) ** 2 / student[0].numel()
    total = mean * student.numel()
    if settings.get("dist", False):
        return Result(weight(case) * total.sqrt())
    return Result(weight(case) * total / (student.numel() if settings.get("div_element", False) else len(student)))


@LOSSES.register(MMRAZOR, source_file="mgd_loss", computes="MGDLoss:")
def masked_generative(case: Case, inputs: dict[str, Tensor]) -> Result:
    mean = fitnet_loss(*maps(inputs))
    return Result(case.parameters.get("alpha_mgd", 2e-5) * mean * inputs["teacher"][0].numel())


@LOSSES.register(MMRAZOR, source_file="mgd_loss", computes="MGDConnector", parameters=["student_channels"])
def masked_generative_whole(case: Case, inputs: dict[str, Tensor]) -> Result:
    settings, student = case.parameters, inputs["student"]
    hidden = "channels" if settings["mask_on_channel"] else "positions"
    channels = settings["student_channels"], settings["teacher_channels"]
    method = MaskedGenerative(*channels, share=settings["lambda_mgd"], hidden=hidden)
    entries = [{"key": f"mgd.{key}", "shape": value.shape} for key, value in method.named_parameters()]
    weights = hashed_state_dict(entries)
    method.load_state_dict({key.removeprefix("mgd."): value for key, value in weights.items()}, strict=False)
    method.to(student.dtype)
    generated = method.generate(student, inputs["uniform"])
    loss = settings["alpha_mgd"] * fitnet_loss(generated, inputs["teacher"]) * inputs["teacher"][0].numel()
    step = -(-generated.shape[1] // case.array("generated").shape[1])
    return Result(loss, dict(method.named_parameters()), {"generated": generated[:, ::step]})


@LOSSES.register(MMRAZOR, source_file="pkd_loss")
def pearson(case: Case, inputs: dict[str, Tensor]) -> Result:
    levels = ["", *sorted(name.removeprefix("student") for name in inputs if name.startswith("student") and name[7:])]
    loss = 0.0
    for level in levels:
        student, teacher = inputs[f"student{level}"], inputs[f"teacher{level}"]
        # Its corners are not aligned, ours are; and it may bring the teacher's map to the student's size.
        if student.shape[2] != teacher.shape[2]:
            if case.parameters.get("resize_stu", True):
                student = F.interpolate(student, size=teacher.shape[2:], mode="bilinear")
            else:
                teacher = F.interpolate(teacher, size=student.shape[2:], mode="bilinear")
        loss = loss + pearson_loss(student, teacher)
    return Result(weight(case) * loss)


@LOSSES.register(MMRAZOR, source_file="relational_kd", computes="^DistanceWise")
def relational_distance(case: Case, inputs: dict[str, Tensor]) -> Result:
    return relational(case, inputs, "distance", 25.0)


@LOSSES.register(MMRAZOR, source_file="relational_kd", computes="^AngleWise")
def relational_angle(case: Case, inputs: dict[str, Tensor]) -> Result:
    return relational(case, inputs, "angle", 50.0)


def relational(case: Case, inputs: dict[str, Tensor], relation: str, default: float) -> Result:
    normalize = case.parameters.get("with_l2_norm", True)
    loss = relational_loss(*maps(inputs), relation, normalize=normalize, reduction="original")
    return Result(weight(case, default) * loss)


@LOSSES.register(MMRAZOR, source_file="fbkd_loss")
def feature_based(case: Case, inputs: dict[str, Tensor]) -> Result:
    settings = case.parameters
    teacher = inputs["t_f"]
    terms = [
        ("mask_l2_weight", 7e-5, (inputs["s_f"], teacher, (inputs["s_sp"] + inputs["t_sp"]) / 2)),
        ("channel_weight", 4e-3, (inputs["s_cp"], teacher.mean((2, 3)))),
        ("spatial_weight", 4e-3, (inputs["s_spp"], inputs["t_spp"])),
        ("nonloacl_weight", 7e-5, (inputs["s_rel"], inputs["t_rel"])),
    ]
    distances = (settings.get(name, w) * attended_distance(*pair, reduction="original") for name, w, pair in terms)
    return Result(weight(case) * sum(distances))


@LOSSES.register(MMRAZOR, source_file="cross_entropy_loss")
def hard_label(case: Case, inputs: dict[str, Tensor]) -> Result:
    return Result(weight(case) * hard_label_loss(*maps(inputs)))


@LOSSES.register(MMRAZOR, source_file="weighted_soft_label")
def weighted_soft_label(case: Case, inputs: dict[str, Tensor]) -> Result:
    labels = inputs["gt"].reshape(len(inputs["gt"]), *(inputs["gt"].shape[1:] or (1, 1)))
    tau = case.parameters.get("tau", 2.0)
    return Result(weight(case) * weighted_soft_label_loss(*maps(inputs), labels, tau, reduction="original"))
