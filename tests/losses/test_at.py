import pytest
import torch
from waves import STUDENT_FEATURE, TEACHER_FEATURE

from segdistill.utils.losses import attention_loss

VALID = torch.ones(2, 9, 13, dtype=torch.bool)
VALID[:, :, :4] = False


@pytest.mark.parametrize(("over", "value"), [("map", 0.0028404149), ("column", 0.036832297)])
def test_value_on_waves(over, value):
    assert attention_loss(STUDENT_FEATURE, TEACHER_FEATURE, over=over).item() == pytest.approx(value, rel=1e-7)


def test_is_zero_for_any_multiple_of_the_teacher_with_its_channels_in_any_order():
    assert attention_loss(-3 * TEACHER_FEATURE.flip(1), TEACHER_FEATURE).item() == pytest.approx(0, abs=1e-30)


@pytest.mark.parametrize("over", ["map", "column"])
def test_masked_positions_do_not_count(over):
    loss = attention_loss(STUDENT_FEATURE, TEACHER_FEATURE, over=over, valid=VALID)
    torch.testing.assert_close(
        loss, attention_loss(STUDENT_FEATURE[..., 4:], TEACHER_FEATURE[..., 4:], over=over), check_stride=False
    )


@pytest.mark.parametrize("power", [1, 2, 3])
def test_gradient_is_right(power):
    student = STUDENT_FEATURE[:, :, :3, :4].clone().requires_grad_()
    teacher = TEACHER_FEATURE[:, :, :5, :6]
    assert torch.autograd.gradcheck(lambda x: attention_loss(x, teacher, power), student)


@pytest.mark.parametrize("wrong", [{"power": 0}, {"over": "row"}])
def test_settings_outside_their_range_are_errors(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        attention_loss(STUDENT_FEATURE, TEACHER_FEATURE, **wrong)
