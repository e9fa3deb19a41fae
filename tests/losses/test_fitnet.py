import pytest
import torch
import torch.nn.functional as F
from waves import STUDENT_FEATURE, TEACHER_FEATURE

from segdistill.network import SegmentationOutput
from segdistill.utils.batch import Batch
from segdistill.utils.losses import fitnet_loss
from segdistill.utils.losses.fitnet import FitNet

LABELS = torch.zeros(2, 9, 13, dtype=torch.uint8)
LABELS[:, :, :4] = 255


def test_is_the_mean_squared_difference_at_the_teachers_size():
    student = STUDENT_FEATURE[:, :, ::2, ::3]
    resized = F.interpolate(student, size=(9, 13), mode="bilinear", align_corners=True)
    expected = (resized - TEACHER_FEATURE[:, :6]).square().mean()
    torch.testing.assert_close(fitnet_loss(student, TEACHER_FEATURE[:, :6]), expected)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_void_content_does_not_count(graph, dtype):
    torch.manual_seed(0)
    loss = FitNet(6, 8, graph=graph, void="mask")
    batch = Batch(torch.empty(0), LABELS, torch.empty(0), (LABELS != 255).sum(), 0.0)
    results = []
    for content in (0.0, 1e3):
        student, teacher = (
            x.to(dtype).masked_fill((LABELS == 255)[:, None], content).requires_grad_()
            for x in (STUDENT_FEATURE, TEACHER_FEATURE)
        )
        outputs = [SegmentationOutput(None, {"context": x}) for x in (student, teacher)]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = loss(*outputs, batch)
        value.backward()
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert teacher.grad is None
        assert (student.grad[..., :4] == 0).all()
        results.append((value, student.grad))
    torch.testing.assert_close(*results, rtol=0, atol=0)
