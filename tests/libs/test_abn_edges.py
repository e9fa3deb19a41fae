"""The operators where numbers stop being finite or arguments do not fit, on both implementations of the kernels."""

import itertools

import pytest
import torch

from segdistill.libs import ABN, InPlaceABN, functions

ACTIVATIONS = {"identity": (0, 0.0), "leaky_relu": (1, 0.01), "elu": (2, 1.0)}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
NAN, INF = float("nan"), float("inf")

pytestmark = pytest.mark.usefixtures("kernels")


def random_map(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def vectors(channels=4, dtype=torch.float32):
    """mean, var, weight, bias"""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand((4, channels), generator=generator) + 0.5).to(functions.statistics_dtype(dtype)).unbind()


def finite_channels(x):
    return x.isfinite().all(dim=[dim for dim in range(x.dim()) if dim != 1]).tolist()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_nan_of_one_channel_shows_in_all_its_results(activation):
    for culprit, dtype, layout in itertools.product(("weight", "bias", "var"), DTYPES, LAYOUTS):
        x, grad = (
            random_map(2, 4, 5, 6, seed=seed).to(dtype).contiguous(memory_format=LAYOUTS[layout]) for seed in (0, 1)
        )
        mean, var, weight, bias = vectors(dtype=dtype)
        healthy = x.clone()
        functions.ops.abn_forward_(healthy, mean, var, weight, bias, 1e-5, *ACTIVATIONS[activation])
        {"weight": weight, "bias": bias, "var": var}[culprit][1] = NAN

        functions.ops.abn_forward_(x, mean, var, weight, bias, 1e-5, *ACTIVATIONS[activation])
        assert finite_channels(x) == [True, False, True, True]
        assert x[:, 1].isnan().all()
        total = functions.ops.abn_sums(x, grad, weight, bias, *ACTIVATIONS[activation])
        assert total[1].isnan().tolist() == [False, True, False, False]
        for y in (x, healthy):
            for means in (None, torch.stack([mean, bias])):
                grad_x = functions.ops.abn_backward(y, grad, var, weight, bias, means, 1e-5, *ACTIVATIONS[activation])
                assert finite_channels(grad_x) == [True, False, True, True]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("at", [(0, 0, 0), (1, 2, 3)])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_variance_of_a_channel_that_is_not_finite_is_nan(value, at, layout):
    x = random_map(2, 4, 5, 6).contiguous(memory_format=LAYOUTS[layout])
    x[at[0], 1, at[1], at[2]] = value
    mean, var = functions.ops.abn_moments(x)
    assert mean.isfinite().tolist() == [True, False, True, True]
    assert var.isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_infinite_values_in_evaluation_mode_are_those_of_batch_norm(activation, layout):
    ours, reference = InPlaceABN(3, activation=activation).eval(), ABN(3, activation=activation).eval()
    x = random_map(2, 3, 4, 5).contiguous(memory_format=LAYOUTS[layout])
    x[0, 0, 0, 0], x[1, 1, 1, 1], x[0, 2, 3, 4] = INF, -INF, INF
    grads = []
    for layer in (ours, reference):
        leaf = x.clone().requires_grad_()
        grads += torch.autograd.grad(layer(leaf * 1), leaf, random_map(2, 3, 4, 5, seed=1))
    assert grads[1].isfinite().all()
    assert torch.allclose(*grads, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("outlier", [None, 0.0])
@pytest.mark.parametrize("far", [1e3, 1e5])
def test_variance_of_a_map_far_from_zero(far, outlier, layout):
    x = (random_map(8, 6, 40, 50) + far).contiguous(memory_format=LAYOUTS[layout])
    if outlier is not None:
        x[0, :, 0, 0] = outlier
    mean, var = functions.ops.abn_moments(x)
    exact = x.double().var((0, 2, 3), correction=0)
    pure = functions.ops is not torch.ops.segdistill
    assert torch.allclose(var.double(), exact, rtol=2e-4 if pure else 3e-5 if outlier == 0 else 2e-6, atol=0)
    assert torch.allclose(mean.double(), x.double().mean((0, 2, 3)), rtol=2e-7, atol=0)


def test_empty_batch_in_evaluation_mode():
    for shape in ((0, 4, 3, 3), (2, 4, 0, 3)):
        leaf, layer = torch.zeros(shape, requires_grad=True), InPlaceABN(4).eval()
        y = layer(leaf * 1)
        y.sum().backward()
        assert y.shape == leaf.grad.shape == shape
        assert layer.weight.grad.tolist() == [0] * 4


def test_nan_behind_elu_has_a_nan_gradient_at_any_position():
    y, grad = random_map(1, 2, 3, 11), torch.ones(1, 2, 3, 11)
    y[0, 1] = NAN
    grad_x = functions.ops.abn_backward(y, grad, torch.ones(2), None, None, None, 1e-5, *ACTIVATIONS["elu"])
    assert torch.equal(grad_x.isnan(), y.isnan())


def refused(match):
    return pytest.raises((ValueError, RuntimeError), match=match)


@pytest.mark.parametrize("shape", [(2, 0, 3, 3), (0, 0, 3, 3), (2, 4), (2, 4, 3, 3, 1)])
def test_map_without_channels_or_of_other_dimensions_is_refused(shape):
    x, channels = torch.zeros(shape), shape[1]
    mean, var, weight, bias = vectors(channels)
    with refused(r"expected a map \(N, C, H, W\)"):
        functions.ops.abn_moments(x)
    with refused(r"expected a map \(N, C, H, W\)"):
        functions.ops.abn_forward_(x, mean, var, weight, bias, 1e-5, 0, 0.0)
    with refused(r"expected a map \(N, C, H, W\)"):
        functions.ops.abn_sums(x, x, weight, bias, 0, 0.0)
    with refused(r"expected a map \(N, C, H, W\)"):
        functions.ops.abn_backward(x, x, var, weight, bias, None, 1e-5, 0, 0.0)


@pytest.mark.parametrize("training", [True, False])
def test_layer_without_channels_is_refused(training):
    with refused("channels"):
        InPlaceABN(0).train(training)(torch.zeros(2, 0, 3, 3))


@pytest.mark.parametrize("missing", ["weight", "bias"])
def test_weight_without_bias_is_refused(missing):
    x = random_map(2, 4, 3, 3)
    mean, var, weight, bias = vectors()
    affine = (None, bias) if missing == "weight" else (weight, None)
    with refused("expected weight and bias or neither"):
        functions.ops.abn_forward_(x, mean, var, *affine, 1e-5, 0, 0.0)
    with refused("expected weight and bias or neither"):
        functions.ops.abn_sums(x, x, *affine, 0, 0.0)
    with refused("expected weight and bias or neither"):
        functions.ops.abn_backward(x, x, var, *affine, None, 1e-5, 0, 0.0)


@pytest.mark.parametrize(
    "grad",
    [
        torch.zeros(2, 4, 3, 3, 1),
        torch.zeros(2, 4, 3),
        torch.zeros(2, 1, 3, 3),
        torch.zeros(2, 4, 3, 3, dtype=torch.float64),
    ],
    ids=["5-D", "3-D", "one channel", "float64"],
)
def test_gradient_unlike_the_output_is_refused(grad):
    y = random_map(2, 4, 3, 3)
    _, var, weight, bias = vectors()
    with refused("gradient"):
        functions.ops.abn_sums(y, grad, weight, bias, 0, 0.0)
    with refused("gradient"):
        functions.ops.abn_backward(y, grad, var, weight, bias, None, 1e-5, 0, 0.0)


def test_gradient_on_another_device_is_refused():
    y, grad = random_map(2, 4, 3, 3), torch.zeros(2, 4, 3, 3, device="meta")
    _, var, weight, bias = vectors()
    with pytest.raises(ValueError, match=r"gradient and output differ: .* on meta, but .* on cpu"):
        functions.sums(y, grad, weight, bias, 0, 0.0)
    with pytest.raises(ValueError, match=r"gradient and output differ: .* on meta, but .* on cpu"):
        functions.backward(y, grad, var, weight, bias, None, 1e-5, 0, 0.0)


@pytest.mark.parametrize("wrong", range(4))
def test_vector_of_one_value_is_not_broadcast(wrong):
    x, right = random_map(2, 4, 3, 3), vectors()
    arguments = [vector[:1] if index == wrong else vector for index, vector in enumerate(right)]
    with refused("vector of 4 values"):
        functions.ops.abn_forward_(x, *arguments, 1e-5, 0, 0.0)
    with refused("vector of . values"):
        means = torch.stack(right[:2])[:, : 4 if wrong else 1]
        functions.ops.abn_backward(x, x, *arguments[1:], means, 1e-5, 0, 0.0)


@pytest.mark.parametrize("activation", [-1, 3])
def test_unknown_activation_is_refused(activation):
    x = random_map(2, 4, 3, 3)
    with refused(f"unknown activation {activation}"):
        functions.ops.abn_forward_(x, *vectors(), 1e-5, activation, 0.0)
    with refused(f"unknown activation {activation}"):
        functions.ops.abn_sums(x, x, None, None, activation, 0.0)
    with refused(f"unknown activation {activation}"):
        functions.ops.abn_backward(x, x, vectors()[1], None, None, None, 1e-5, activation, 0.0)
