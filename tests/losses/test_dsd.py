import pytest
import torch
from waves import STUDENT_FEATURE, STUDENT_LOGITS, TEACHER_FEATURE, TEACHER_LOGITS

from segdistill.network import SegmentationOutput
from segdistill.utils.batch import Batch
from segdistill.utils.losses import category_similarity_loss, pixel_similarity_loss
from segdistill.utils.losses.dsd import PixelSimilarity

STUDENT, TEACHER = [STUDENT_FEATURE, STUDENT_LOGITS], [TEACHER_FEATURE, TEACHER_LOGITS]
VALID = torch.ones(2, 9, 13, dtype=torch.bool)
VALID[:, :, :4] = False


def of_pixels(student, teacher, **mask):
    """PSD between the wave features and others that follow from the logits."""
    return pixel_similarity_loss([student.square(), student], [teacher.square(), teacher.exp()], **mask)


LOSSES = pytest.mark.parametrize("loss", [of_pixels, category_similarity_loss])


def test_values_on_waves():
    pixels = pixel_similarity_loss([*STUDENT, STUDENT_LOGITS], [*TEACHER, TEACHER_LOGITS])
    assert pixels.item() == pytest.approx(0.011222851, rel=1e-7)
    assert category_similarity_loss(STUDENT_LOGITS, TEACHER_LOGITS).item() == pytest.approx(1.5380934e-5, rel=1e-7)


def test_is_zero_for_the_teacher_itself():
    assert pixel_similarity_loss(TEACHER, TEACHER) == 0
    assert category_similarity_loss(TEACHER_LOGITS, TEACHER_LOGITS) == 0


@LOSSES
def test_masked_positions_do_not_count(loss):
    student = STUDENT_LOGITS.clone().requires_grad_()
    value = loss(student, TEACHER_LOGITS, valid=VALID)
    value.backward()
    assert (student.grad[..., :4] == 0).all()
    torch.testing.assert_close(value, loss(STUDENT_LOGITS[..., 4:], TEACHER_LOGITS[..., 4:]))


@LOSSES
def test_batch_is_the_mean_of_its_samples(loss):
    parts = [loss(STUDENT_LOGITS[n : n + 1], TEACHER_LOGITS[n : n + 1]) for n in range(2)]
    torch.testing.assert_close(loss(STUDENT_LOGITS, TEACHER_LOGITS), sum(parts) / 2)


@LOSSES
def test_gradient_is_right_and_the_teachers_none(loss):
    student = STUDENT_LOGITS[:, :, :3, :4].clone().requires_grad_()
    teacher = TEACHER_LOGITS[:, :, :5, :6].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student)
    loss(student, teacher).backward()
    assert teacher.grad is None


@LOSSES
@pytest.mark.parametrize("valid", [None, torch.zeros(2, 9, 13, dtype=torch.bool)], ids=["all", "none"])
def test_zeros_in_half_precision_have_a_finite_gradient(loss, valid):
    student = torch.zeros(2, 5, 9, 13, dtype=torch.bfloat16, requires_grad=True)
    value = loss(student, TEACHER_LOGITS.bfloat16(), valid=valid)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_module_compares_the_maps_that_are_joined():
    loss = PixelSimilarity(on="context+logits:layer3+logits")
    assert loss.wanted == ({"context", "logits"}, {"layer3", "logits"})
    outputs = [
        SegmentationOutput(None, dict(zip(names, maps, strict=True)))
        for names, maps in ((("context", "logits"), STUDENT), (("layer3", "logits"), TEACHER))
    ]
    batch = Batch(torch.empty(0), torch.zeros(2, 36, 52, dtype=torch.uint8), torch.empty(0), torch.tensor(1.0), 0.0)
    assert loss(*outputs, batch) == pixel_similarity_loss(STUDENT, TEACHER)


@pytest.mark.parametrize("on", ["logits", "context+logits:logits"])
def test_fewer_than_two_maps_are_an_error(on):
    with pytest.raises(ValueError, match="two or more maps joined"):
        PixelSimilarity(on=on)
