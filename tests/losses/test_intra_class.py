import pytest
import torch
from waves import STUDENT_FEATURE, TEACHER_FEATURE, gradient_of, striped_labels

from segdistill.network import SegmentationOutput, build_network
from segdistill.utils.batch import Batch
from segdistill.utils.losses import intra_class_loss
from segdistill.utils.losses.base import resize_labels
from segdistill.utils.losses.intra_class import IntraClass

LABELS = striped_labels()


def loss(student, teacher, valid=None):
    return intra_class_loss(student, teacher, LABELS[: len(student)], 5, valid)


def test_value_on_waves():
    value = intra_class_loss(STUDENT_FEATURE, TEACHER_FEATURE, LABELS, 5, reduction="original").item()
    assert value == pytest.approx(1.1411213, rel=1e-7)


def test_is_the_definition_written_out():
    labels, maps = resize_labels(LABELS, (9, 13)), []
    for feature in (STUDENT_FEATURE, TEACHER_FEATURE):
        similarity = torch.zeros(2, 9, 13, dtype=torch.float64)
        for n in range(2):
            for c in range(5):
                own = labels[n] == c
                members = feature[n][:, own]
                similarity[n][own] = torch.cosine_similarity(members, members.mean(1, keepdim=True), dim=0)
        maps.append(similarity)
    torch.testing.assert_close(loss(STUDENT_FEATURE, TEACHER_FEATURE), (maps[0] - maps[1]).square().mean())


def test_is_invariant_to_the_scale_and_the_rotation_of_the_features():
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    turned = 1e-3 * torch.einsum("cd,ndhw->nchw", rotation, STUDENT_FEATURE)
    torch.testing.assert_close(loss(turned, 1e3 * TEACHER_FEATURE), loss(STUDENT_FEATURE, TEACHER_FEATURE))


def test_dead_positions_give_a_bounded_gradient():
    dead = STUDENT_FEATURE.clone()
    dead[:, :, ::2] = 0
    for feature in (dead, torch.zeros_like(dead)):
        assert gradient_of(loss, feature, TEACHER_FEATURE).abs().max() < 1


@pytest.mark.parametrize("void", ["keep", "mask"])
def test_module(void):
    network = build_network("espnet_c", 5, p=1, q=1)
    method = IntraClass.between(network, network, on="context", void=void)
    batch = Batch(torch.empty(0), LABELS, torch.empty(0), (LABELS != 255).sum(), 0.0)
    outputs = (SegmentationOutput(None, {"context": x}) for x in (STUDENT_FEATURE, TEACHER_FEATURE))
    valid = None if void == "keep" else resize_labels(LABELS, (9, 13)) != 255
    torch.testing.assert_close(method(*outputs, batch), loss(STUDENT_FEATURE, TEACHER_FEATURE, valid))
