import numpy as np
import pytest
import torch
from waves import STUDENT_FEATURE, TEACHER_FEATURE, batch_of, output_of

from segdistill.utils.losses import PairWise, pair_wise_loss


def test_value_on_waves():
    assert pair_wise_loss(STUDENT_FEATURE, TEACHER_FEATURE).item() == pytest.approx(0.086596811, rel=1e-8)


@pytest.mark.parametrize(("reduction", "norm"), [("mean", 0.04002466), ("original", 0.04483725)])
def test_gradient_norm_on_waves(reduction, norm):
    student = STUDENT_FEATURE.clone().requires_grad_()
    pair_wise_loss(student, TEACHER_FEATURE, reduction=reduction).backward()
    assert student.grad.norm().item() == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize("scale", [0.1, 0.25, 0.5, 0.6, 1.0])
def test_is_the_definition_written_out(scale):
    def similarity(feature: torch.Tensor) -> np.ndarray:
        x = feature.numpy()
        height, width = (max(int(n * scale), 1) for n in x.shape[2:])
        nodes = np.stack(
            [
                x[:, :, top : top + height, left : left + width].max((2, 3))
                for top in range(0, x.shape[2], height)
                for left in range(0, x.shape[3], width)
            ],
            axis=2,
        )
        nodes /= np.linalg.norm(nodes, axis=1, keepdims=True)
        return np.einsum("nci,ncj->nij", nodes, nodes)

    expected = ((similarity(TEACHER_FEATURE) - similarity(STUDENT_FEATURE)) ** 2).mean()
    assert pair_wise_loss(STUDENT_FEATURE, TEACHER_FEATURE, scale).item() == pytest.approx(expected, rel=1e-10)


def test_is_invariant_to_feature_scale():
    loss = pair_wise_loss(STUDENT_FEATURE, TEACHER_FEATURE)
    torch.testing.assert_close(pair_wise_loss(1e-3 * STUDENT_FEATURE, 1e3 * TEACHER_FEATURE), loss)


def test_gradient_is_orthogonal_to_the_feature():
    """As the loss does not change with the scale, a step along the feature itself is none."""
    student = STUDENT_FEATURE.clone().requires_grad_()
    pair_wise_loss(student, TEACHER_FEATURE).backward()
    assert abs((student.grad * STUDENT_FEATURE).sum()) < 1e-15


def test_is_invariant_to_a_rotation_of_the_channels():
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    rotated = torch.einsum("cd,ndhw->nchw", rotation, STUDENT_FEATURE)
    loss = pair_wise_loss(STUDENT_FEATURE, TEACHER_FEATURE, pool_scale=0.1)
    torch.testing.assert_close(pair_wise_loss(rotated, TEACHER_FEATURE, pool_scale=0.1), loss)


def test_order_of_samples_channels_and_nodes_does_not_matter():
    student, teacher = (x.flip(0, 1, 2, 3) for x in (STUDENT_FEATURE, TEACHER_FEATURE))
    loss = pair_wise_loss(STUDENT_FEATURE, TEACHER_FEATURE, pool_scale=0.1)
    torch.testing.assert_close(pair_wise_loss(student, teacher, pool_scale=0.1), loss)


@pytest.mark.parametrize("scale", [0.01, 0.5])
def test_gradient_is_right(scale):
    student = STUDENT_FEATURE[:, :, :4, :5].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pair_wise_loss(x, TEACHER_FEATURE[:, :, :4, :5], scale), student)


@pytest.mark.parametrize("num_zero", [1, 117], ids=["one", "all"])
def test_zero_nodes_have_a_finite_bounded_gradient(num_zero):
    student = STUDENT_FEATURE.float()
    student.flatten(2)[:, :, :num_zero] = 0
    student.requires_grad_()
    loss = pair_wise_loss(student, TEACHER_FEATURE.float(), pool_scale=0.01)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.abs().max() < 1


def test_module_compares_the_features_it_asks_for():
    loss = PairWise(on="layer3:layer4", pool_scale=0.25)
    assert loss.needs == ({"layer3"}, {"layer4"})
    student, teacher = output_of(layer3=STUDENT_FEATURE), output_of(layer4=TEACHER_FEATURE)
    labels = torch.zeros(2, 36, 52)
    assert loss(student, teacher, batch_of(labels)) == pair_wise_loss(STUDENT_FEATURE, TEACHER_FEATURE, 0.25)


@pytest.mark.parametrize("scale", [0, -0.5, 1.01, float("nan")])
def test_pool_scale_outside_its_range_is_an_error(scale):
    with pytest.raises(ValueError, match=r"pool_scale must be in \(0, 1\]"):
        pair_wise_loss(STUDENT_FEATURE, TEACHER_FEATURE, scale)


def test_unknown_reduction_is_an_error():
    with pytest.raises(ValueError, match="unknown reduction 'sum'; known: mean, original"):
        pair_wise_loss(STUDENT_FEATURE, TEACHER_FEATURE, reduction="sum")


@pytest.mark.parametrize("window", [1, 2, 20])
def test_a_window_of_fixed_side_is_a_pool_scale(window):
    student, teacher = STUDENT_FEATURE[..., :9], TEACHER_FEATURE[..., :9]
    expected = pair_wise_loss(student, teacher, pool_scale=min(window / 9 + 0.01, 1))
    assert pair_wise_loss(student, teacher, window=window) == expected


def test_value_of_two_by_two_windows_on_waves():
    assert pair_wise_loss(STUDENT_FEATURE, TEACHER_FEATURE, window=2).item() == pytest.approx(0.48879613, rel=1e-7)


def test_window_below_one_is_an_error():
    with pytest.raises(ValueError, match="window must be 1 or more, not 0"):
        pair_wise_loss(STUDENT_FEATURE, TEACHER_FEATURE, window=0)
