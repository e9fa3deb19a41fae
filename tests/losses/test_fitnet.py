import torch
import torch.nn.functional as F
from waves import STUDENT_FEATURE, TEACHER_FEATURE

from segdistill.utils.losses import fitnet_loss


def test_is_the_mean_squared_difference_at_the_teachers_size():
    student = STUDENT_FEATURE[:, :, ::2, ::3]
    resized = F.interpolate(student, size=(9, 13), mode="bilinear", align_corners=True)
    expected = (resized - TEACHER_FEATURE[:, :6]).square().mean()
    torch.testing.assert_close(fitnet_loss(student, TEACHER_FEATURE[:, :6]), expected)
