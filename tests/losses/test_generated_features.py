"""MGD, factor transfer, FBKD, mimicking: their own modules and scales."""

import pytest
import torch
from waves import STUDENT_LOGITS, TEACHER_FEATURE, TEACHER_LOGITS, train_own

from segdistill.network import SegmentationOutput
from segdistill.utils.batch import Batch
from segdistill.utils.losses import attention_maps, hide, mimic_loss, relation_map, weighted_soft_label_loss
from segdistill.utils.losses.factor import FactorTransfer
from segdistill.utils.losses.mgd import MaskedGenerative

BATCH = Batch(torch.empty(0), torch.zeros(2, 36, 52, dtype=torch.uint8), torch.empty(0), torch.tensor(3744), 0.0)
STUDENT, TEACHER = (SegmentationOutput(None, {"map": x.float()}) for x in (STUDENT_LOGITS, TEACHER_FEATURE))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_share_of_the_map_is_hidden(share):
    left = hide(torch.ones(1, 2, 200, 200), torch.rand(1, 1, 200, 200), share)
    assert left.mean().item() == pytest.approx(1 - share, abs=0.02)
    assert torch.equal(left[:, 0], left[:, 1])
    with pytest.raises(ValueError, match=r"must be in 0\.\.1"):
        hide(left, left, share + 1.1)


@pytest.mark.parametrize("hidden", ["positions", "channels"])
def test_draws_follow_torchs_generator(hidden):
    method = MaskedGenerative(5, 8, on="map", hidden=hidden)
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(method(STUDENT, TEACHER, BATCH).item())
    assert values[0] == values[1] != values[2]


def test_auto_encoder_learns_and_the_student_leaves_it_alone():
    torch.manual_seed(0)
    method = FactorTransfer(5, 8, on="map")
    method(STUDENT, TEACHER, BATCH).backward()
    trained = {name.partition(".")[0] for name, parameter in method.named_parameters() if parameter.grad is not None}
    assert trained == {"translator"}
    method.zero_grad()
    errors = [train_own(method, STUDENT, TEACHER, BATCH)["error"].item() for _ in range(60)]
    assert errors[-1] < 0.3 < errors[0]
    assert all(parameter.grad is None for parameter in method.parameters())


def test_an_auto_encoder_that_is_not_finite_says_so_and_keeps_its_weights():
    method = FactorTransfer(5, 8, on="map")
    before = [parameter.clone() for parameter in method.parameters()]
    broken = SegmentationOutput(None, {"map": TEACHER.features["map"] / 0})
    assert not method.before_step(STUDENT, broken, BATCH)["grad_norm"].isfinite()
    assert all(torch.equal(x, y) for x, y in zip(before, method.parameters(), strict=True))


def test_attention_has_mean_one_over_valid_positions_and_channels():
    valid = torch.ones(2, 9, 13, dtype=torch.bool)
    valid[0, :4] = False
    spatial, channel = attention_maps(TEACHER_FEATURE, valid)
    assert spatial[0, :, :4].sum() == 0
    torch.testing.assert_close(spatial[0, :, 4:].mean().item(), 1.0)
    torch.testing.assert_close(channel.mean().item(), 1.0)


def test_relations_are_those_over_all_pairs():
    x = TEACHER_FEATURE.flatten(2)
    unit = x / x.norm(dim=1, keepdim=True)
    expected = x @ (unit.transpose(1, 2) @ unit) / x.shape[2]
    torch.testing.assert_close(relation_map(TEACHER_FEATURE).flatten(2), expected)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_normalized_mimicking_does_not_see_scale(distance):
    loss = mimic_loss(STUDENT_LOGITS, TEACHER_LOGITS, distance, normalize=True)
    torch.testing.assert_close(mimic_loss(5 * STUDENT_LOGITS, 0.1 * TEACHER_LOGITS, distance, normalize=True), loss)
    assert loss < (2 if distance == "l1" else 4)


def test_soft_labels_count_more_where_the_student_is_worse():
    teacher = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1)
    right = torch.zeros(1, 1, 1, dtype=torch.uint8)
    better, worse = (torch.tensor([x, 0.0]).view(1, 2, 1, 1) for x in (4.0, -4.0))
    void = torch.full_like(right, 255)
    for student, more in ((better, False), (worse, True)):
        weighted = weighted_soft_label_loss(student, teacher, right)
        assert (weighted > weighted_soft_label_loss(student, teacher, void)) == more
