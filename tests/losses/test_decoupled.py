import pytest
import torch
from waves import STUDENT_LOGITS, TEACHER_LOGITS, gradient_of, striped_labels

from segdistill.network import SegmentationOutput
from segdistill.utils.batch import Batch
from segdistill.utils.losses import decoupled_loss, pixel_wise_loss
from segdistill.utils.losses.base import resize_labels
from segdistill.utils.losses.decoupled import Decoupled

LABELS = torch.arange(2 * 9 * 13).reshape(2, 9, 13) % 6
LABELS[LABELS == 5] = 255


def loss(student, teacher, valid=None):
    return decoupled_loss(student, teacher, LABELS[: len(student)], 2.0, 1.0, 3.0, valid)


def test_with_the_others_weighted_by_their_share_it_is_kd():
    """KL = KL of target against others + (1 - p_t) KL among the others, so beta = 1 - p_t at one position gives KD."""
    student, teacher, label = (x[:1, ..., :1, :1] for x in (STUDENT_LOGITS, TEACHER_LOGITS, LABELS))
    share = 1 - teacher.softmax(1)[0, label.item(), 0, 0].item()
    torch.testing.assert_close(decoupled_loss(student, teacher, label, beta=share), pixel_wise_loss(student, teacher))


def test_void_takes_the_teachers_most_probable_class():
    guessed = torch.where(LABELS == 255, TEACHER_LOGITS.argmax(1), LABELS)
    assert decoupled_loss(STUDENT_LOGITS, TEACHER_LOGITS, LABELS) == decoupled_loss(
        STUDENT_LOGITS, TEACHER_LOGITS, guessed
    )


def test_huge_logits_stay_finite():
    maps = (1e4 * STUDENT_LOGITS).float(), (1e4 * TEACHER_LOGITS).float()
    assert loss(*maps).isfinite()
    assert gradient_of(loss, *maps).isfinite().all()


def test_gradient_is_right():
    student = STUDENT_LOGITS[:, :, :2, :3].clone().requires_grad_()
    teacher, labels = TEACHER_LOGITS[:, :, :2, :3], LABELS[:, :2, :3]
    assert torch.autograd.gradcheck(lambda x: decoupled_loss(x, teacher, labels, 2.0), student)


@pytest.mark.parametrize("void", ["keep", "mask"])
def test_module(void):
    labels = striped_labels()
    batch = Batch(torch.empty(0), labels, torch.empty(0), (labels != 255).sum(), 0.0)
    outputs = (SegmentationOutput(x, {"logits": x}) for x in (STUDENT_LOGITS, TEACHER_LOGITS))
    small = resize_labels(labels, (9, 13))
    expected = decoupled_loss(
        STUDENT_LOGITS, TEACHER_LOGITS, small, 4.0, 2.0, 8.0, valid=None if void == "keep" else small != 255
    )
    torch.testing.assert_close(Decoupled(temperature=4.0, alpha=2.0, beta=8.0, void=void)(*outputs, batch), expected)


def test_a_single_class_is_an_error():
    with pytest.raises(ValueError, match="at least 2"):
        decoupled_loss(STUDENT_LOGITS[:, :1], TEACHER_LOGITS[:, :1], LABELS)
