import functools

import pytest
import torch
from waves import STUDENT_LOGITS, TEACHER_LOGITS, VALID, gradient_of

from segdistill.utils.losses import inter_class_loss
from segdistill.utils.losses.inter_class import InterClass

SIMILARITIES = pytest.mark.parametrize("similarity", ["kl", "gram"])


def loss_of(similarity):
    return lambda student, teacher, valid=None: inter_class_loss(student, teacher, similarity, valid)


@SIMILARITIES
def test_is_the_definition_written_out(similarity):
    def rows(x):
        x = x[VALID[0].expand_as(x)].reshape(5, -1)
        p = x.softmax(1)
        kl = [[(a * (a.log() - b.log())).sum() for b in p] for a in p]
        matrix = torch.tensor(kl) if similarity == "kl" else x @ x.T
        return matrix / matrix.norm(dim=1, keepdim=True)

    student, teacher = STUDENT_LOGITS[:1], TEACHER_LOGITS[:1]
    expected = (rows(student[0]) - rows(teacher[0])).square().sum() / 5
    torch.testing.assert_close(inter_class_loss(student, teacher, similarity, VALID[:1]).float(), expected.float())


@SIMILARITIES
def test_order_of_positions_does_not_matter(similarity):
    flipped = (x.flip(2, 3) for x in (STUDENT_LOGITS, TEACHER_LOGITS))
    torch.testing.assert_close(loss_of(similarity)(*flipped), loss_of(similarity)(STUDENT_LOGITS, TEACHER_LOGITS))


def test_kl_does_not_see_a_constant_added_to_a_class():
    shifted = STUDENT_LOGITS + torch.linspace(-9, 9, 5, dtype=torch.float64)[:, None, None]
    loss = functools.partial(inter_class_loss, teacher_logits=TEACHER_LOGITS)
    torch.testing.assert_close(loss(shifted), loss(STUDENT_LOGITS))


@SIMILARITIES
@pytest.mark.parametrize("spread", [0, 1e-8, 1e-4])
def test_classes_that_are_nearly_alike_give_a_bounded_gradient(similarity, spread):
    """In float32, as an untrained classifier's are."""
    gradient = gradient_of(loss_of(similarity), spread * STUDENT_LOGITS.float(), TEACHER_LOGITS.float())
    assert gradient.abs().max() < 1e3


def test_words_that_do_not_exist_are_errors():
    with pytest.raises(ValueError, match="unknown similarity 'cosine'; known: kl, gram"):
        InterClass(similarity="cosine")
    with pytest.raises(ValueError, match="unknown reduction 'sum'"):
        inter_class_loss(STUDENT_LOGITS, TEACHER_LOGITS, reduction="sum")
    with pytest.raises(ValueError, match="takes no valid mask"):
        inter_class_loss(STUDENT_LOGITS, TEACHER_LOGITS, valid=VALID, reduction="original")
