"""What holds for every distance between two maps, and for every method that binds one to networks."""

import copy

import pytest
import torch
from torch import Tensor
from waves import STUDENT_FEATURE, STUDENT_LOGITS, TEACHER_FEATURE, TEACHER_LOGITS, striped_labels

from segdistill.network import SegmentationOutput, build_network, resize
from segdistill.utils.batch import Batch
from segdistill.utils.losses import (
    DISTILLATION_LOSSES,
    activation_boundary_loss,
    attended_distance,
    hard_label_loss,
    mimic_loss,
    overhaul_loss,
    pearson_loss,
    relational_loss,
    similarity_preserving_loss,
    weighted_soft_label_loss,
)

LABELS = striped_labels()[:1]
MARGIN = -torch.linspace(0.1, 2, 5, dtype=torch.float64)

LOSSES = {
    "overhaul": overhaul_loss,
    "overhaul-margin": lambda s, t, **mask: overhaul_loss(s, t, MARGIN, **mask),
    "ab": activation_boundary_loss,
    "hard": hard_label_loss,
    "mimic-l1": lambda s, t, **mask: mimic_loss(s, t, "l1", **mask),
    "mimic-l2-normalize": lambda s, t, **mask: mimic_loss(s, t, "l2", True, **mask),
    "pkd": pearson_loss,
    "sp": similarity_preserving_loss,
    "rkd-distance": relational_loss,
    "rkd-angle": lambda s, t, **mask: relational_loss(s, t, "angle", 3, normalize=True, **mask),
    "wsld": lambda s, t, **mask: weighted_soft_label_loss(s, t, LABELS.expand(len(t), -1, -1), **mask),
}
OTHER_WIDTH = ("sp", "rkd-distance", "rkd-angle")
RELATES_SAMPLES = ("pkd", "sp")
ZERO_ELSEWHERE = ("ab", "hard", "overhaul-margin")  # their least value is not at the teacher's own map


@pytest.fixture(params=LOSSES)
def name(request) -> str:
    return request.param


def maps(name: str) -> tuple[Tensor, Tensor]:
    return (STUDENT_FEATURE, TEACHER_FEATURE) if name in OTHER_WIDTH else (STUDENT_LOGITS, TEACHER_LOGITS)


def gradient(loss, student: Tensor) -> Tensor:
    student = student.clone().requires_grad_()
    loss(student).backward()
    return student.grad


def test_zero_for_the_teacher_itself_positive_otherwise(name):
    student, teacher = maps(name)
    assert LOSSES[name](student, teacher) > 0
    if name not in ZERO_ELSEWHERE:
        assert abs(LOSSES[name](teacher, teacher).item()) < 1e-14


def test_teacher_gets_no_gradient(name):
    student, teacher = (x.clone().requires_grad_() for x in maps(name))
    LOSSES[name](student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_gradient_is_right(name):
    if name == "wsld":
        pytest.skip("its weights take no gradient")
    student, teacher = (x[:, :, :4, :4].contiguous() for x in maps(name))
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, teacher), student.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, dtype):
    student, teacher = (x.to(dtype) for x in maps(name))
    value = LOSSES[name](student, teacher)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert value == LOSSES[name](student.float(), teacher.float())


def test_student_is_brought_to_the_teachers_size(name):
    student, teacher = maps(name)
    student = student[:, :, ::2, ::3]
    assert LOSSES[name](student, teacher) == LOSSES[name](resize(student, teacher.shape[2:]), teacher)


def test_masked_content_does_not_matter(name):
    (student, teacher), valid = maps(name), torch.rand(2, 9, 13, generator=torch.Generator().manual_seed(0)) < 0.6
    valid[:, 6:, :4] = False  # whole regions, too
    filled = [x.masked_fill(~valid[:, None], 100) for x in (student, teacher)]
    loss = LOSSES[name]
    grad = gradient(lambda x: loss(x, filled[1], valid=valid), filled[0])
    torch.testing.assert_close(loss(*filled, valid=valid), loss(student, teacher, valid=valid))
    torch.testing.assert_close(grad, gradient(lambda x: loss(x, teacher, valid=valid), student))
    assert grad.masked_select(~valid[:, None]).abs().sum() == 0
    assert grad.abs().sum() > 0


def test_all_valid_is_as_without_a_mask(name):
    student, teacher = maps(name)
    valid = torch.ones(2, 9, 13, dtype=torch.bool)
    torch.testing.assert_close(LOSSES[name](student, teacher, valid=valid), LOSSES[name](student, teacher))


def test_nothing_valid_is_zero_with_zero_gradient(name):
    student, teacher = maps(name)
    valid = torch.zeros(2, 9, 13, dtype=torch.bool)
    assert LOSSES[name](student, teacher, valid=valid) == 0
    assert gradient(lambda x: LOSSES[name](x, teacher, valid=valid), student).abs().sum() == 0


def test_batch_is_the_mean_of_its_samples(name):
    if name in RELATES_SAMPLES:
        pytest.skip("relates the samples")
    student, teacher = maps(name)
    parts = [LOSSES[name](student[n : n + 1], teacher[n : n + 1]) for n in range(2)]
    torch.testing.assert_close(LOSSES[name](student, teacher), sum(parts) / 2)


@pytest.mark.parametrize("dead", ["student", "both", "channel"])
def test_zero_maps_have_a_bounded_gradient(name, dead):
    student, teacher = (x.float().clone() for x in maps(name))
    if dead == "channel":
        student[:, 1] = 0
    else:
        student.zero_()
    if dead == "both":
        teacher.zero_()
    grad = gradient(lambda x: LOSSES[name](x, teacher), student)
    assert grad.isfinite().all()
    assert grad.abs().max() < 100


def test_channels_last_gives_the_same(name):
    student, teacher = maps(name)
    last = (x.contiguous(memory_format=torch.channels_last) for x in (student, teacher))
    torch.testing.assert_close(LOSSES[name](*last), LOSSES[name](student, teacher))


def test_other_batch_size_is_an_error(name):
    student, teacher = maps(name)
    with pytest.raises(ValueError, match=r"\(1, "):
        LOSSES[name](student[:1], teacher)


METHODS = ("overhaul", "ab", "mgd", "pkd", "sp", "rkd", "fbkd", "ft", "mimic", "hard", "wsld")


@pytest.fixture(params=METHODS)
def flag(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return build_network("espnet_c", 5, p=1, q=1), build_network("espnet_c", 5, p=1, q=2)


def build(flag: str, networks, on: str, **settings):
    if flag in ("hard", "wsld"):
        on = "logits"
    elif flag in ("overhaul", "ab"):
        on = ":".join(f"{name}.pre" for name in on.split(":"))
    torch.manual_seed(1)
    return DISTILLATION_LOSSES[flag].between(*networks, on=on, **settings)


def step_inputs(loss, student, teacher, labels=None) -> tuple[SegmentationOutput, SegmentationOutput, Batch]:
    labels = torch.zeros(3, 32, 32, dtype=torch.uint8) if labels is None else labels
    batch = Batch(torch.empty(0), labels, torch.empty(0), (labels != 255).sum(), 0.25)
    names = loss.student_feature, loss.teacher_feature
    return *(SegmentationOutput(None, {name: x}) for name, x in zip(names, (student, teacher), strict=True)), batch


def run(loss, student, teacher, labels=None) -> tuple[Tensor, Tensor]:
    """The term and the gradient of the student's map, with the draws of one seed."""
    student = student.clone().requires_grad_()
    torch.manual_seed(2)
    term = loss(*step_inputs(loss, student, teacher, labels))
    term.backward()
    return term.detach(), student.grad


def random_maps(loss, networks, size: int = 8) -> list[Tensor]:
    features = networks[0].features[loss.student_feature], networks[1].features[loss.teacher_feature]
    generator = torch.Generator().manual_seed(3)
    sides = (size * features[1].stride // features[0].stride, size)
    return [
        torch.randn(3, feature.channels, side, side, generator=generator)
        for feature, side in zip(features, sides, strict=True)
    ]


def test_method_binds_maps_of_other_width_and_size(flag, networks):
    loss = build(flag, networks, "layer2:layer3")
    student, teacher = random_maps(loss, networks)
    term, grad = run(loss, student, teacher)
    assert term.dtype == torch.float32
    assert term > 0
    assert grad.abs().sum() > 0
    for name, parameter in loss.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    with torch.autocast("cpu", torch.bfloat16):
        half, grad = run(loss, student.bfloat16(), teacher.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, term, rtol=0.05, atol=0)
    assert grad.isfinite().all()


def test_method_masks_void(flag, networks):
    loss = build(flag, networks, "layer3", void="mask")
    student, teacher = random_maps(loss, networks)
    labels = torch.zeros(3, 32, 32, dtype=torch.uint8)
    labels[0, :16], labels[1] = 255, 255  # of the second, unlabelled, everything counts
    term, grad = run(loss, student, teacher, labels)
    assert term > 0
    assert grad[1].abs().sum() > 0
    assert grad[0, :, :4].abs().sum() == 0
    student[0, :, :4], teacher[0, :, :4] = 7, -9
    other, other_grad = run(loss, student, teacher, labels)
    torch.testing.assert_close(other, term)
    torch.testing.assert_close(other_grad, grad)


def test_method_resumes_to_the_bit(flag, networks):
    loss = build(flag, networks, "layer3")
    maps = random_maps(loss, networks)
    loss.after_step(*step_inputs(loss, *maps))
    state = copy.deepcopy(loss.state_dict())
    again = build(flag, networks, "layer3")
    again.load_state_dict(state)
    for method in (loss, again):
        method.after_step(*step_inputs(method, *maps))
    assert run(loss, *maps)[0] == run(again, *maps)[0]


def test_docstring_documents_every_setting_of_the_method(flag):
    cls = DISTILLATION_LOSSES[flag]
    own = {name for name in cls.__init__.__kwdefaults__ if name not in ("weight", "on")}
    documented = {line.strip().split(":")[0] for line in cls.__doc__.partition("Args:")[2].splitlines() if ":" in line}
    assert own == documented
    assert cls.__doc__.splitlines()[0].endswith(".")
    assert cls.paper


def test_attended_distance_weighs_positions():
    attention = torch.zeros(2, 1, 9, 13, dtype=torch.float64)
    attention[:, :, 2] = 9
    distance = attended_distance(STUDENT_LOGITS, TEACHER_LOGITS, attention)
    row = (STUDENT_LOGITS - TEACHER_LOGITS)[:, :, 2].square().mean((1, 2)).sqrt().mean()
    torch.testing.assert_close(distance, row)
