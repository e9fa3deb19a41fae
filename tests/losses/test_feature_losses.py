"""Gradients of the distances between two maps by finite differences, and what their zeros are."""

import pytest
import torch
from waves import STUDENT_FEATURE, STUDENT_LOGITS, TEACHER_FEATURE, TEACHER_LOGITS

from segdistill.utils.losses import (
    activation_boundary_loss,
    attended_distance,
    hard_label_loss,
    mimic_loss,
    overhaul_loss,
    pearson_loss,
    relational_loss,
    similarity_preserving_loss,
)

MARGIN = -torch.linspace(0.1, 2, 5, dtype=torch.float64)
FEATURES, LOGITS = (STUDENT_FEATURE, TEACHER_FEATURE), (STUDENT_LOGITS, TEACHER_LOGITS)

LOSSES = {
    "overhaul": (overhaul_loss, LOGITS),
    "overhaul-margin": (lambda s, t: overhaul_loss(s, t, MARGIN), LOGITS),
    "ab": (activation_boundary_loss, LOGITS),
    "hard": (hard_label_loss, LOGITS),
    "mimic-l1": (lambda s, t: mimic_loss(s, t, "l1"), LOGITS),
    "mimic-l2-normalize": (lambda s, t: mimic_loss(s, t, "l2", True), LOGITS),
    "pkd": (pearson_loss, LOGITS),
    "sp": (similarity_preserving_loss, FEATURES),
    "rkd-distance": (relational_loss, FEATURES),
    "rkd-angle": (lambda s, t: relational_loss(s, t, "angle", 3, normalize=True), FEATURES),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_right(name):
    loss, maps = LOSSES[name]
    student, teacher = (x[:, :, :4, :4].contiguous() for x in maps)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student.requires_grad_())


def test_beyond_the_margin_the_activation_boundary_asks_for_nothing():
    beyond = 2 * torch.where(TEACHER_LOGITS > 0, 1.0, -1.0)
    assert activation_boundary_loss(beyond, TEACHER_LOGITS, margin=2) == 0
    assert activation_boundary_loss(-beyond, TEACHER_LOGITS, margin=2) == 16


def test_attended_distance_weighs_positions():
    attention = torch.zeros(2, 1, 9, 13, dtype=torch.float64)
    attention[:, :, 2] = 9
    distance = attended_distance(STUDENT_LOGITS, TEACHER_LOGITS, attention)
    row = (STUDENT_LOGITS - TEACHER_LOGITS)[:, :, 2].square().mean((1, 2)).sqrt().mean()
    torch.testing.assert_close(distance, row)
