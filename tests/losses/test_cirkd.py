import numpy as np
import pytest
import torch
from waves import STUDENT_FEATURE, TEACHER_FEATURE

from segdistill.utils.losses import cirkd, cross_image_loss

VALID = torch.ones(2, 9, 13, dtype=torch.bool)
VALID[:, :, :4] = False


def test_value_on_waves():
    assert cross_image_loss(STUDENT_FEATURE, TEACHER_FEATURE).item() == pytest.approx(9.1191826, rel=1e-7)


def test_tiles_change_neither_value_nor_gradient(monkeypatch):
    def run():
        student = STUDENT_FEATURE.clone().requires_grad_()
        loss = cross_image_loss(student, TEACHER_FEATURE, valid=VALID)
        loss.backward()
        return loss, student.grad

    whole = run()
    monkeypatch.setattr(cirkd, "TILE", 1000)
    torch.testing.assert_close(run(), whole)


def test_is_the_definition_written_out():
    def similarities(feature):
        x = feature.flatten(2).numpy()
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        scores = np.exp(np.einsum("mci,ncj->mnij", x, x) / 0.3)
        return scores / scores.sum(-1, keepdims=True)

    student, teacher = similarities(STUDENT_FEATURE), similarities(TEACHER_FEATURE)
    expected = (teacher * np.log(teacher / student)).sum(-1).mean()
    assert cross_image_loss(STUDENT_FEATURE, TEACHER_FEATURE, 0.3).item() == pytest.approx(expected, rel=1e-10)


def test_is_zero_for_a_rotation_of_the_teacher():
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    rotated = torch.einsum("cd,ndhw->nchw", 3 * rotation, TEACHER_FEATURE)
    assert cross_image_loss(rotated, TEACHER_FEATURE).item() == pytest.approx(0, abs=1e-12)


def test_masked_positions_do_not_count():
    loss = cross_image_loss(STUDENT_FEATURE, TEACHER_FEATURE, valid=VALID)
    torch.testing.assert_close(loss, cross_image_loss(STUDENT_FEATURE[..., 4:], TEACHER_FEATURE[..., 4:]))
    halved = cross_image_loss(STUDENT_FEATURE, TEACHER_FEATURE, valid=VALID, num_valid=VALID.sum() / 2)
    torch.testing.assert_close(halved, 2 * loss)


def test_gradient_is_right():
    student = STUDENT_FEATURE[:, :, :2, :3].clone().requires_grad_()
    teacher = TEACHER_FEATURE[:, :, :3, :4]
    assert torch.autograd.gradcheck(cross_image_loss, (student, teacher))


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"pool": 0}])
def test_settings_outside_their_range_are_errors(wrong):
    with pytest.raises(ValueError, match="not 0"):
        cross_image_loss(STUDENT_FEATURE, TEACHER_FEATURE, **wrong)
