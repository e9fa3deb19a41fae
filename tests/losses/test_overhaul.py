import pytest
import torch
from torch import nn
from waves import STUDENT_LOGITS, TEACHER_LOGITS

from segdistill.network import build_network
from segdistill.utils.losses import Overhaul, negative_mean, overhaul_loss


def test_margin_is_the_mean_of_the_negative_part():
    norm = nn.BatchNorm2d(5)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 1.0, 0.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, -3.0, 4.0, -1.0]))
    drawn = norm.weight.double() * torch.randn(1_000_000, 5, generator=torch.Generator().manual_seed(0)) + norm.bias
    expected = [channel[channel < 0].mean().item() for channel in drawn.T]
    expected[3] = -3.0  # negative in 0.003 %: three deviations
    assert negative_mean(norm).tolist() == pytest.approx(expected, abs=0.01)


def test_negative_responses_are_only_told_to_be_no_greater():
    teacher = torch.tensor([-3.0, -3.0, -0.5, 2.0, 2.0]).view(1, 1, 1, 5)
    student = torch.tensor([-9.0, 1.0, -0.7, 1.0, 3.0]).view(1, 1, 1, 5)
    expected = (0 + (1 + 1) ** 2 + 0 + 1 + 1) / 5
    assert overhaul_loss(student, teacher, torch.tensor([-1.0])).item() == pytest.approx(expected)


def test_original_is_the_sum():
    loss = overhaul_loss(STUDENT_LOGITS, TEACHER_LOGITS, reduction="original")
    torch.testing.assert_close(loss, overhaul_loss(STUDENT_LOGITS, TEACHER_LOGITS) * STUDENT_LOGITS.numel())


def test_margins_come_from_the_teachers_batch_norm():
    student, teacher = (build_network("espnet_c", 3, p=1, q=1) for _ in range(2))
    nn.init.uniform_(teacher.norm_before("layer3.pre").bias)
    loss = Overhaul.between(student, teacher, on="layer2.pre:layer3.pre")
    assert torch.equal(loss.margin, negative_mean(teacher.norm_before("layer3.pre")))
    assert "margin" not in loss.state_dict()
    with pytest.raises(ValueError, match="no BatchNorm before context"):
        Overhaul.between(student, teacher, on="context")
