"""What holds for the function of any method: ``loss(student, teacher, valid=None)`` of maps (2, C, 9, 13)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

VALID = torch.zeros(2, 9, 13, dtype=torch.bool)
VALID[0, 2:7] = VALID[1, :, 5:] = True


def gradient_of(loss: Callable, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    student = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student, teacher, valid), student)
    return gradient


def check_function(loss: Callable, student: Tensor, teacher: Tensor) -> None:
    """Teacher without gradient, half precision as float32, sizes that differ, masked content, nothing valid."""
    leaves = [x.clone().requires_grad_() for x in (student, teacher)]
    loss(*leaves).backward()
    assert leaves[0].grad.abs().sum() > 0
    assert leaves[1].grad is None

    half = student.bfloat16(), teacher.bfloat16()
    assert loss(*half).dtype == torch.float32
    assert loss(*half) == loss(*(x.float() for x in half))
    assert gradient_of(loss, *half).isfinite().all()

    small = student[:, :, ::2, ::3]
    torch.testing.assert_close(
        loss(small, teacher), loss(F.interpolate(small, size=(9, 13), mode="bilinear", align_corners=True), teacher)
    )

    void = ~VALID[:, None]
    other = student.masked_fill(void, 50.0), teacher.masked_fill(void, -70.0)
    torch.testing.assert_close(loss(*other, VALID), loss(student, teacher, VALID))
    gradient = gradient_of(loss, student, teacher, VALID)
    torch.testing.assert_close(gradient_of(loss, *other, VALID), gradient)
    assert gradient.masked_fill(VALID[:, None], 0).abs().sum() == 0
    torch.testing.assert_close(loss(student, teacher, torch.ones_like(VALID)), loss(student, teacher))

    assert loss(student, teacher, torch.zeros_like(VALID)) == 0
    assert gradient_of(loss, student, teacher, torch.zeros_like(VALID)).abs().sum() == 0


def check_samples_are_apart(loss: Callable, student: Tensor, teacher: Tensor) -> None:
    """A batch is the mean of its samples."""
    parts = [loss(student[n : n + 1], teacher[n : n + 1]) for n in range(len(student))]
    torch.testing.assert_close(loss(student, teacher), sum(parts) / len(parts))
