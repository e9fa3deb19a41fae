"""Relational, similarity-preserving and Pearson distillation: what they do not see, and their definitions."""

import pytest
import torch
import torch.nn.functional as F
from waves import STUDENT_FEATURE, STUDENT_LOGITS, TEACHER_FEATURE, TEACHER_LOGITS

from segdistill.utils.losses import pearson_loss, relational_loss, similarity_preserving_loss

torch.manual_seed(0)
ROTATION = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
ROTATED = torch.einsum("cd,ndhw->nchw", ROTATION, STUDENT_FEATURE)


@pytest.mark.parametrize("relation", ["distance", "angle"])
def test_relations_do_not_see_scale_shift_and_rotation(relation):
    loss = relational_loss(STUDENT_FEATURE, TEACHER_FEATURE, relation)
    torch.testing.assert_close(relational_loss(3 * ROTATED - 7, TEACHER_FEATURE, relation), loss)


def test_relations_written_out():
    student, teacher = (F.adaptive_avg_pool2d(x, 2).flatten(2) for x in (STUDENT_FEATURE, TEACHER_FEATURE))
    angle = []
    for n in range(2):
        for j in range(4):
            for i in range(4):
                for k in range(4):
                    cosines = [
                        F.cosine_similarity(x[n, :, i] - x[n, :, j], x[n, :, k] - x[n, :, j], dim=0)
                        for x in (student, teacher)
                    ]
                    angle.append(F.smooth_l1_loss(*cosines))
    torch.testing.assert_close(relational_loss(STUDENT_FEATURE, TEACHER_FEATURE, "angle", 2), sum(angle) / 128)


def test_relations_of_alike_regions_have_a_bounded_gradient():
    student = torch.ones(2, 6, 9, 13).requires_grad_()
    for relation in ("distance", "angle"):
        relational_loss(student, TEACHER_FEATURE.float(), relation).backward()
    assert student.grad.abs().max() < 1


@pytest.mark.parametrize("grid", [1, 10])
def test_a_grid_that_does_not_fit_is_an_error(grid):
    with pytest.raises(ValueError, match="grid must be from 2 to the map's side, 9"):
        relational_loss(STUDENT_FEATURE, TEACHER_FEATURE, grid=grid)


def test_similarities_do_not_see_scale_and_rotation():
    loss = similarity_preserving_loss(STUDENT_FEATURE, TEACHER_FEATURE)
    torch.testing.assert_close(similarity_preserving_loss(3 * ROTATED, 0.1 * TEACHER_FEATURE), loss)
    assert similarity_preserving_loss(STUDENT_FEATURE[:1], TEACHER_FEATURE[:1]).abs() < 1e-15


def test_pearson_is_one_minus_the_correlation():
    student, teacher = (x.transpose(0, 1).flatten(1) for x in (STUDENT_LOGITS, TEACHER_LOGITS))
    correlation = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(student, teacher, strict=True)])
    num = student.shape[1]
    expected = (1 - correlation.mean()) * (num - 1) / num
    torch.testing.assert_close(pearson_loss(STUDENT_LOGITS, TEACHER_LOGITS), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(pearson_loss(5 * STUDENT_LOGITS + 2, TEACHER_LOGITS), expected, rtol=1e-5, atol=0)


def test_pearson_value_on_waves():
    assert pearson_loss(STUDENT_LOGITS, TEACHER_LOGITS).item() == pytest.approx(1.0013503, rel=1e-7)
