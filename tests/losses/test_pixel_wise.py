import pytest
import torch
from waves import STUDENT_LOGITS, TEACHER_LOGITS

from segdistill.utils.losses import pixel_wise_loss


@pytest.mark.parametrize(
    ("temperature", "reduction", "value"),
    [(1, "mean", 1.9040818), (4, "mean", 3.3555694), (1, "original", 5.3596095)],
    ids=["T1", "T4", "original"],
)
def test_value_on_waves(temperature, reduction, value):
    loss = pixel_wise_loss(STUDENT_LOGITS, TEACHER_LOGITS, temperature, reduction=reduction)
    assert loss.item() == pytest.approx(value, rel=1e-7)


def test_is_the_divergence_written_out():
    student, teacher = STUDENT_LOGITS.numpy(), TEACHER_LOGITS.numpy()
    p, q = (torch.tensor(x).softmax(1).numpy() for x in (teacher, student))
    expected = sum(
        p[n, c, h, w] * (torch.tensor(p[n, c, h, w]).log() - torch.tensor(q[n, c, h, w]).log())
        for n in range(2)
        for c in range(5)
        for h in range(9)
        for w in range(13)
    ) / (2 * 9 * 13)
    torch.testing.assert_close(pixel_wise_loss(STUDENT_LOGITS, TEACHER_LOGITS), expected)


def test_original_has_batch_size_times_the_gradient_of_the_mean():
    gradients = []
    for reduction in ("mean", "original"):
        student = STUDENT_LOGITS.clone().requires_grad_()
        pixel_wise_loss(student, TEACHER_LOGITS, reduction=reduction).backward()
        gradients.append(student.grad)
    torch.testing.assert_close(gradients[1], 2 * gradients[0])


def test_is_never_negative():
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        student, teacher = (torch.randn(1, 4, 3, 3, generator=generator) for _ in range(2))
        assert pixel_wise_loss(student, teacher).item() > 0


def test_does_not_see_a_constant_added_to_all_classes():
    shifted = STUDENT_LOGITS + torch.linspace(-50, 50, 9, dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        pixel_wise_loss(shifted, TEACHER_LOGITS), pixel_wise_loss(STUDENT_LOGITS, TEACHER_LOGITS)
    )


def test_huge_logits_stay_finite():
    student = (1e4 * STUDENT_LOGITS).float().requires_grad_()
    loss = pixel_wise_loss(student, (1e4 * TEACHER_LOGITS).float())
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_order_of_samples_classes_and_positions_does_not_matter():
    student, teacher = (x.flip(0, 1, 2, 3) for x in (STUDENT_LOGITS, TEACHER_LOGITS))
    torch.testing.assert_close(pixel_wise_loss(student, teacher), pixel_wise_loss(STUDENT_LOGITS, TEACHER_LOGITS))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradient_is_right(temperature):
    student = STUDENT_LOGITS[:, :, :3, :4].clone().requires_grad_()
    teacher = TEACHER_LOGITS[:, :, :3, :4]
    valid = torch.arange(24).reshape(2, 3, 4) % 5 != 0
    assert torch.autograd.gradcheck(lambda x: pixel_wise_loss(x, teacher, temperature), student)
    assert torch.autograd.gradcheck(lambda x: pixel_wise_loss(x, teacher, temperature, valid), student)


def test_only_valid_positions_count():
    valid = torch.zeros(2, 9, 13, dtype=torch.bool)
    valid[:, :4] = True
    loss = pixel_wise_loss(STUDENT_LOGITS, TEACHER_LOGITS, valid=valid)
    torch.testing.assert_close(loss, pixel_wise_loss(STUDENT_LOGITS[:, :, :4], TEACHER_LOGITS[:, :, :4]))


@pytest.mark.parametrize("shape", [(1, 5, 9, 13), (2, 4, 9, 13), (5, 9, 13)])
def test_other_batch_size_or_class_count_is_an_error_naming_both_shapes(shape):
    with pytest.raises(ValueError, match=r"\(2, 5, 9, 13\)") as error:
        pixel_wise_loss(torch.zeros(shape), TEACHER_LOGITS)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "a temperature is above 0"),
        ({"reduction": "sum"}, "unknown reduction 'sum'; known: mean, original"),
        ({"valid": torch.ones(2, 36, 52, dtype=torch.bool)}, "positions of the map"),
        ({"valid": torch.ones(2, 9, 13, dtype=torch.bool), "reduction": "original"}, "takes no valid mask"),
    ],
)
def test_settings_that_make_no_sense_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        pixel_wise_loss(STUDENT_LOGITS, TEACHER_LOGITS, **options)
