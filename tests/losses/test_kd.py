import pytest
import torch
import torch.nn.functional as F
from waves import STUDENT_LOGITS, TEACHER_LOGITS, striped_labels

from segdistill.network import SegmentationOutput
from segdistill.utils.batch import Batch
from segdistill.utils.losses import pixel_wise_loss
from segdistill.utils.losses.kd import KnowledgeDistillation

STUDENT, TEACHER = (SegmentationOutput(x, {"logits": x}) for x in (STUDENT_LOGITS, TEACHER_LOGITS))
LABELS = striped_labels()
BATCH = Batch(torch.empty(0), LABELS, torch.empty(0), (LABELS != 255).sum(), 0.0)


def test_temperature_softens_both():
    loss = KnowledgeDistillation(temperature=4.0)(STUDENT, TEACHER, BATCH)
    torch.testing.assert_close(loss, 16 * pixel_wise_loss(STUDENT_LOGITS / 4, TEACHER_LOGITS / 4))


@pytest.mark.parametrize("void", ["keep", "mask"])
def test_image_grid_enlarges_both_first(void):
    maps = [
        F.interpolate(x, size=(36, 52), mode="bilinear", align_corners=True) for x in (STUDENT_LOGITS, TEACHER_LOGITS)
    ]
    expected = pixel_wise_loss(*maps, valid=None if void == "keep" else LABELS != 255)
    torch.testing.assert_close(KnowledgeDistillation(grid="image", void=void)(STUDENT, TEACHER, BATCH), expected)


def test_unknown_grid_is_an_error():
    with pytest.raises(ValueError, match="unknown grid 'full'; known: logits, image"):
        KnowledgeDistillation(grid="full")
