import numpy as np
import pytest
import torch
from waves import STUDENT_LOGITS, TEACHER_LOGITS, VALID, gradient_of

from segdistill.utils.losses import dist_loss


def loss(student, teacher, valid=None):
    return dist_loss(student, teacher, 2.0, 1.5, 0.5, valid)


def test_value_on_waves():
    assert dist_loss(STUDENT_LOGITS, TEACHER_LOGITS).item() == pytest.approx(2.0214779, rel=1e-7)
    assert dist_loss(STUDENT_LOGITS, TEACHER_LOGITS, gamma=0).item() == pytest.approx(1.0138077, rel=1e-7)


def test_masked_it_is_the_correlation_of_the_valid_positions():
    p, q = (x.softmax(1).movedim(1, 3)[VALID].numpy() for x in (STUDENT_LOGITS, TEACHER_LOGITS))
    inter = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    intra = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    value = dist_loss(STUDENT_LOGITS, TEACHER_LOGITS, beta=2, gamma=3, valid=VALID).item()
    assert value == pytest.approx(2 * inter + 3 * intra, rel=1e-5)  # the original's epsilon


def test_probabilities_that_say_nothing_give_a_finite_gradient():
    gradient = gradient_of(loss, torch.zeros_like(STUDENT_LOGITS), TEACHER_LOGITS)
    assert gradient.isfinite().all()
