import copy

import pytest
import torch
from torch import nn
from waves import batch_of, output_of, train_own, wave

from segdistill.network import SegmentationOutput
from segdistill.utils.losses import Holistic, critic_loss, generator_loss, gradient_penalty

STUDENT_SCORE = torch.tensor([1.864078, 1.350926, -0.885041], dtype=torch.float64)
TEACHER_SCORE = torch.tensor([1.927116, 1.031003, -1.375532], dtype=torch.float64)


def output(k: int, size: tuple[int, int] = (65, 65), num_classes: int = 3) -> SegmentationOutput:
    return output_of(logits=wave(k, (2, num_classes, *size), 3).float())


STUDENT, TEACHER = output(1), output(2)
BATCH = batch_of(torch.zeros(2, 65, 65))


def build(**options) -> Holistic:
    torch.manual_seed(0)
    return Holistic(3, **options)


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.named_parameters()}


@pytest.mark.parametrize(("kind", "value"), [("wgan-gp", 0.24912562), ("hinge", 2.5684987)])
def test_values_of_both_sides(kind, value):
    assert critic_loss(STUDENT_SCORE, TEACHER_SCORE, kind).item() == pytest.approx(value, abs=1e-6)
    assert generator_loss(STUDENT_SCORE, kind).item() == pytest.approx(-0.77665455, abs=1e-6)


def test_the_two_sides_pull_the_students_score_apart():
    score = STUDENT_SCORE.clone().requires_grad_()
    (up,) = torch.autograd.grad(generator_loss(score), score)
    (down,) = torch.autograd.grad(critic_loss(score, TEACHER_SCORE), score)
    torch.testing.assert_close(up, -down)


def test_hinge_is_satisfied_beyond_the_margins():
    assert critic_loss(torch.tensor([-1.0, -3]), torch.tensor([1.0, 2]), "hinge") == 0


def test_unknown_kind_is_an_error():
    for call in (
        lambda: critic_loss(STUDENT_SCORE, TEACHER_SCORE, "gan"),
        lambda: generator_loss(STUDENT_SCORE, "gan"),
        lambda: Holistic(3, kind="gan"),
    ):
        with pytest.raises(ValueError, match="unknown adversarial loss 'gan'; known: wgan-gp, hinge"):
            call()


class Linear(nn.Module):
    """A critic whose gradient is its weight, everywhere."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weight).flatten(1).sum(1)


@pytest.mark.parametrize("norm", [0.0, 0.5, 1.0, 3.0])
def test_penalty_of_a_linear_critic_is_its_distance_from_slope_one(norm):
    weight = wave(3, (3, 4, 5), 1)
    critic = Linear(norm * weight / weight.norm())
    student, teacher = wave(1, (2, 3, 4, 5), 1), wave(2, (2, 3, 4, 5), 1)
    penalty = gradient_penalty(critic, student, teacher)
    penalty.backward()
    assert penalty.item() == pytest.approx((norm - 1) ** 2)
    assert critic.weight.grad.isfinite().all()
    assert critic.weight.grad.norm().item() == pytest.approx(2 * abs(norm - 1) if norm else 0)


def test_penalty_is_taken_between_the_two():
    seen = []

    class Spy(Linear):
        def forward(self, x):
            seen.append(x.detach())
            return super().forward(x)

    student, teacher = wave(1, (2, 3, 4, 5), 1), wave(2, (2, 3, 4, 5), 1)
    alpha = torch.tensor([0.0, 0.25])
    gradient_penalty(Spy(torch.ones(3, 4, 5, dtype=torch.float64)), student, teacher, alpha)
    torch.testing.assert_close(seen[0][0], student[0])
    torch.testing.assert_close(seen[0][1], 0.25 * teacher[1] + 0.75 * student[1])


def test_penalty_gives_the_critic_a_right_gradient_and_the_logits_none():
    """A small smooth critic, whose double backward is checked by finite differences."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 1, 2)).double()
    student, teacher = (wave(k, (2, 3, 4, 5), 1).requires_grad_() for k in (1, 2))
    alpha = torch.tensor([0.3, 0.8])
    penalty = gradient_penalty(critic, student, teacher, alpha)
    penalty.backward()
    assert student.grad is None
    assert teacher.grad is None
    weight = critic[0].weight
    step = 1e-6
    for index in ((0, 0, 0, 0), (3, 2, 1, 2)):
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[index] += sign * step
            sides.append(gradient_penalty(critic, student, teacher, alpha).item())
            with torch.no_grad():
                weight[index] -= sign * step
        assert weight.grad[index].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5)


def test_penalty_of_different_shapes_is_an_error():
    with pytest.raises(ValueError, match=r"student \(2, 3, 65, 65\) and teacher \(2, 4, 65, 65\) differ"):
        gradient_penalty(nn.Identity(), torch.zeros(2, 3, 65, 65), torch.zeros(2, 4, 65, 65))


def test_student_learns_from_the_critic_and_leaves_it_no_gradient():
    loss = build()
    student = output_of(logits=STUDENT.logits.clone().requires_grad_())
    loss(student, TEACHER, BATCH).backward()
    assert student.logits.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in loss.parameters())
    assert not any(parameter.requires_grad for parameter in loss.parameters())


@pytest.mark.parametrize("kind", ["wgan-gp", "hinge"])
def test_step_trains_the_critic_and_nothing_stays_to_be_trained(kind):
    loss = build(kind=kind, optimizer="adam")
    before = snapshot(loss)
    terms = train_own(loss, STUDENT, TEACHER, BATCH)
    assert set(terms) == {"critic", "critic_grad_norm"} | ({"penalty"} if kind == "wgan-gp" else set())
    assert not any(term.requires_grad for term in terms.values())
    assert any(not torch.equal(before[name], value) for name, value in snapshot(loss).items())
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_critic_learns_to_tell_student_from_teacher():
    loss = build(optimizer="adam", weight=1.0, lambda_gp=0.0)
    values = [train_own(loss, STUDENT, TEACHER, BATCH)["critic"].item() for _ in range(8)]
    assert values[-1] < values[0] - 0.05


def test_step_is_one_of_gradient_descent_on_the_weighted_loss():
    """With plain momentum-SGD the first step is -lr * gradient, computed here without the module."""
    loss = build(weight=0.1, lambda_gp=10.0, lr=0.5, weight_decay=0.0)
    reference = copy.deepcopy(loss.discriminator).requires_grad_(True)
    before = snapshot(loss.discriminator)

    torch.manual_seed(1)
    train_own(loss, STUDENT, TEACHER, BATCH)
    torch.manual_seed(1)
    teacher_score, student_score = reference(TEACHER.logits), reference(STUDENT.logits)
    adversarial = critic_loss(student_score, teacher_score)
    penalty = gradient_penalty(reference, STUDENT.logits, TEACHER.logits)
    (0.1 * (adversarial + 10 * penalty)).backward()

    expected = {name: before[name] - 0.5 * value.grad for name, value in reference.named_parameters()}
    for name, value in loss.discriminator.named_parameters():
        torch.testing.assert_close(value, expected[name], msg=lambda text, name=name: f"{name}: {text}")


def test_weight_decay_and_momentum_are_those_of_the_optimizer_asked_for():
    sgd = build(optimizer="sgd", weight_decay=5e-4).optimizer
    adam = build(optimizer="adam", weight_decay=5e-4).optimizer
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["weight_decay"]) == (0.9, 5e-4)
    assert isinstance(adam, torch.optim.Adam)
    assert (adam.defaults["betas"], adam.defaults["weight_decay"]) == ((0.9, 0.99), 0)
    with pytest.raises(ValueError, match="unknown optimizer 'rmsprop'; known: sgd, adam"):
        build(optimizer="rmsprop")


def test_the_critics_rate_falls_with_the_training():
    loss = build(lr=1e-3)
    train_own(loss, STUDENT, TEACHER, BATCH._replace(progress=0.5))
    assert loss.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 0.5**0.9)
    before = snapshot(loss)
    train_own(loss, STUDENT, TEACHER, BATCH._replace(progress=1.0))
    assert all(torch.equal(before[name], value) for name, value in snapshot(loss).items())


def test_a_critic_that_diverges_is_not_updated():
    loss = build(lr=1e20)
    train_own(loss, STUDENT, TEACHER, BATCH)
    before = snapshot(loss)
    assert not loss.before_step(STUDENT, TEACHER, BATCH)["critic_grad_norm"].isfinite()
    assert all(torch.equal(before[name], value) for name, value in snapshot(loss).items())


@pytest.mark.parametrize(
    ("student_size", "teacher_size", "seen"),
    [
        ((65, 65), (65, 65), (65, 65)),
        ((20, 31), (46, 61), (65, 101)),
        ((65, 70), (260, 260), (65, 70)),
        ((260, 260), (65, 70), (65, 70)),
        ((66, 90), (66, 90), (66, 90)),
    ],
)
def test_both_sides_show_the_critic_logits_of_one_sufficient_size(student_size, teacher_size, seen):
    loss = build(kind="hinge")
    sizes = []
    loss.discriminator.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape[2:])))
    student, teacher = output(1, student_size), output(2, teacher_size)
    loss(student, teacher, BATCH)
    train_own(loss, student, teacher, BATCH)
    assert set(sizes) == {seen}


@pytest.mark.parametrize("method", ["forward", "before_step"])
def test_other_class_count_is_an_error_naming_both_shapes(method):
    with pytest.raises(ValueError, match=r"\(2, 3, 65, 65\) and teacher \(2, 4, 65, 65\)"):
        getattr(build(), method)(output(1, num_classes=3), output(2, num_classes=4), BATCH)


def test_a_penalty_without_effect_is_an_error():
    with pytest.raises(ValueError, match="no effect with kind=hinge"):
        Holistic(3, kind="hinge", lambda_gp=1.0)
