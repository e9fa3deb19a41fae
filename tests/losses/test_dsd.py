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


@LOSSES
def test_masked_positions_do_not_count(loss):
    value = loss(STUDENT_LOGITS, TEACHER_LOGITS, valid=VALID)
    torch.testing.assert_close(value, loss(STUDENT_LOGITS[..., 4:], TEACHER_LOGITS[..., 4:]))


@LOSSES
def test_gradient_is_right(loss):
    student = STUDENT_LOGITS[:, :, :3, :4].clone().requires_grad_()
    teacher = TEACHER_LOGITS[:, :, :5, :6]
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student)


def test_module_compares_the_maps_that_are_joined():
    loss = PixelSimilarity(on="context+logits:layer3+logits")
    assert loss.needs == ({"context", "logits"}, {"layer3", "logits"})
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
