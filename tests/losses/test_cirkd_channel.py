import pytest
import torch
from waves import TEACHER_FEATURE

from segdistill.utils.losses import channel_relation_losses
from segdistill.utils.losses.base import unit_vectors

BANK = unit_vectors(torch.randn(20, 117, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), 1)
STUDENT_FEATURE = TEACHER_FEATURE.flip(0)


def test_is_zero_for_channels_of_the_teacher_at_any_scale():
    scales = torch.linspace(0.1, 5, 8, dtype=torch.float64)[:, None, None]
    for term in channel_relation_losses(scales * TEACHER_FEATURE, TEACHER_FEATURE, BANK):
        assert term.item() == pytest.approx(0, abs=1e-14)


def test_relations_within_the_batch_do_not_see_the_order_of_positions():
    student, teacher = (x.flip(2, 3) for x in (STUDENT_FEATURE, TEACHER_FEATURE))
    expected = channel_relation_losses(STUDENT_FEATURE, TEACHER_FEATURE, BANK)
    torch.testing.assert_close(channel_relation_losses(student, teacher, BANK).batch, expected.batch)


@pytest.mark.parametrize("term", range(3))
def test_gradient_is_right(term):
    student = STUDENT_FEATURE[:, :3, :2, :3].clone().requires_grad_()
    teacher = TEACHER_FEATURE[:, :3, :2, :3]
    bank = unit_vectors(BANK[:, :6], 1)
    assert torch.autograd.gradcheck(lambda x: channel_relation_losses(x, teacher, bank)[term], student)


def test_other_channels_are_an_error():
    with pytest.raises(ValueError, match="channel counts"):
        channel_relation_losses(STUDENT_FEATURE[:, :4], TEACHER_FEATURE, BANK)
