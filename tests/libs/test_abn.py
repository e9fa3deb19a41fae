"""In-place ABN against BatchNorm2d + activation in float64, on both implementations of the kernels."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from segdistill.libs import ABN, NORMS, InPlaceABN, InPlaceABNSync, SyncABN, frozen_statistics, get_norm

ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu")
LAYOUTS = ("contiguous", "channels_last", "sliced")
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2e-2}

pytestmark = pytest.mark.usefixtures("kernels")


def random_map(shape, dtype=torch.float32, layout="contiguous", seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 1).to(dtype)
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        wide = x.new_zeros(shape[0], 2 * shape[1], shape[2], shape[3] + 1)
        return wide[:, ::2, :, :-1].copy_(x)
    return x


def random_layers(channels, layer=InPlaceABN, **options):
    """A layer under test in float32 and BatchNorm2d + activation of the same state in float64."""
    torch.manual_seed(channels)
    ours = layer(channels, **options)
    for tensor in ours.state_dict().values():
        if tensor.dtype.is_floating_point:
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    if ours.affine:
        ours.weight.data[::2] *= -1
        ours.bias.data.sub_(1)
    reference = ABN(channels, **options).double()
    reference.load_state_dict(ours.state_dict())
    return ours, reference


def run(layer, x, grad):
    """The output and every gradient; the layer sees a map that it may overwrite."""
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(Handover.apply(leaf))
    return y.detach(), *torch.autograd.grad(y, [leaf, *layer.parameters()], grad)


class Handover(torch.autograd.Function):
    """Like a convolution: a fresh map, of the same strides, that autograd does not keep."""

    @staticmethod
    def forward(ctx, x):
        if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
            return x.clone()
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).copy_(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


def assert_close(ours, reference, tolerance):
    for index, (a, b) in enumerate(zip(ours, reference, strict=True)):
        scale = max(b.abs().max().item(), 1e-3)
        assert (a.double() - b.double()).abs().max().item() <= tolerance * scale, f"result {index}"


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_batch_norm_and_activation(activation, dtype):
    shapes = ((3, 5, 7, 9), (6, 16, 1, 1), (1, 3, 96, 100))
    for training, layout, shape in itertools.product((True, False), LAYOUTS, shapes):
        ours, reference = random_layers(shape[1], activation=activation)
        ours, reference = (
            ours.to(dtype if dtype == torch.float64 else torch.float32).train(training),
            reference.train(training),
        )
        x, grad = random_map(shape, dtype, layout), random_map(shape, dtype, seed=1)
        assert_close(run(ours, x, grad), run(reference, x.double(), grad.double()), TOLERANCE[dtype])
        assert_close(ours.buffers(), reference.buffers(), 1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
def test_output_takes_the_storage_of_the_input(training, layout):
    layer = InPlaceABN(4).train(training)
    for leaf in (random_map((2, 4, 5, 6), layout=layout), random_map((2, 4, 5, 6), layout=layout).requires_grad_()):
        x = Handover.apply(leaf)
        address, stride = x.data_ptr(), x.stride()
        y = layer(x)
        assert y.data_ptr() == address
        assert y.stride() == stride
        assert y is x


def test_backward_keeps_one_map():
    x = Handover.apply(random_map((2, 4, 8, 8)).requires_grad_())
    layer, saved = InPlaceABN(4), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = layer(x)
    maps = [tensor for tensor in saved if tensor.numel() >= x.numel()]
    assert [tensor.data_ptr() for tensor in maps] == [y.data_ptr()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(activation, training):
    layer = random_layers(2, activation=activation)[0].double().train(training)
    layer.track_running_stats = not training
    x = random_map((2, 2, 3, 2), torch.float64).requires_grad_()

    def call(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, Handover.apply(x))

    assert torch.autograd.gradcheck(call, (x, layer.weight, layer.bias))


def test_gradient_of_any_strides():
    ours, reference = random_layers(6)
    x = random_map((2, 6, 5, 4))
    for grad in (
        torch.ones(()).expand(x.shape),
        random_map((2, 6, 5, 4), layout="channels_last"),
        random_map((2, 6, 5, 4), layout="sliced"),
    ):
        assert_close(run(ours, x, grad), run(reference, x.double(), grad.double()), 2e-5)


@pytest.mark.parametrize(
    "options", [{"momentum": None}, {"momentum": 0.3}, {"affine": False}, {"track_running_stats": False}]
)
def test_options_of_batch_norm(options):
    ours, reference = random_layers(4, **options)
    for step in range(3):
        x = random_map((2, 4, 3, 5), seed=step)
        assert_close(run(ours, x, x), run(reference, x.double(), x.double()), 2e-5)
    assert_close(ours.buffers(), reference.buffers(), 1e-5)
    ours.eval(), reference.eval()
    assert_close(run(ours, x, x), run(reference, x.double(), x.double()), 2e-5)


@pytest.mark.parametrize("layer", [ABN, SyncABN, InPlaceABN, InPlaceABNSync])
def test_one_pixel_is_refused_in_training_and_normalised_in_eval(layer):
    ours, reference = random_layers(4, layer)
    x = random_map((1, 4, 1, 1))
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ours(x.clone())
    assert torch.equal(ours.running_mean, before["running_mean"])
    assert_close(run(ours.eval(), x, x), run(reference.eval(), x.double(), x.double()), 2e-5)


def test_three_pixels_train():
    ours, reference = random_layers(4)
    x, grad = random_map((1, 4, 1, 3)), random_map((1, 4, 1, 3), seed=1)
    assert_close(run(ours, x, grad), run(reference, x.double(), grad.double()), 2e-5)


def test_variance_of_numbers_far_from_zero():
    x = random_map((4, 3, 40, 50), torch.float64) + 3000
    mean, var = torch.ops.segdistill.abn_moments(x.float())
    exact = x.float().double().var(dim=(0, 2, 3), correction=0)
    assert torch.allclose(var.double(), exact, rtol=1e-5)
    assert torch.allclose(mean.double(), x.float().double().mean(dim=(0, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_thread_count_does_not_change_a_bit(layout):
    x = random_map((4, 24, 60, 50), layout=layout)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(run(InPlaceABN(24), x, x))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("activation", ["identity", "leaky_relu", "elu"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.02), (torch.bfloat16, 0.2)])
def test_weights_near_zero_train_on(dtype, tolerance, activation):
    ours, reference = random_layers(8, activation=activation)
    with torch.no_grad():
        ours.weight.copy_(torch.tensor([0.0, -0.0, 1e-30, -1e-12, 1e-7, -1e-6, 1e-4, -1e-2]))
        ours.bias.copy_(torch.tensor([-0.2, 0.5, -0.3, 0.0, 1.0, 0.2, 0.4, -0.7]))
    reference.load_state_dict(ours.state_dict())
    x, grad = random_map((4, 8, 32, 32), dtype), random_map((4, 8, 32, 32), dtype, seed=1)
    grad = grad - grad.mean() + x / 4  # so that the gradient of the weight is not noise
    y, grad_x, grad_weight, grad_bias = run(ours, x, grad)
    expected = run(reference, x.double(), grad.double())

    x_hat = (x.double() - x.double().mean((0, 2, 3), keepdim=True)) / x.double().std((0, 2, 3), keepdim=True)
    bound = (1e-5 + torch.finfo(dtype).eps * ours.bias.detach().abs()).view(1, -1, 1, 1)
    rounding = torch.finfo(dtype).eps * expected[0].abs()
    assert ((y - expected[0]).abs() <= 1.1 * bound * x_hat.abs() + rounding + 1e-6).all()
    assert torch.isfinite(grad_x).all()
    assert_close([grad_bias], [expected[3]], tolerance)
    assert ((grad_weight - expected[2]).abs() <= tolerance * expected[2].abs().max()).all()


def test_weight_and_bias_of_zero_train_on():
    layer = InPlaceABN(2)
    nn.init.zeros_(layer.weight)
    _, grad_x, grad_weight, _ = run(layer, random_map((2, 2, 8, 8)), random_map((2, 2, 8, 8), seed=1))
    assert torch.isfinite(grad_x).all()
    assert grad_weight.abs().min() > 0


def test_elu_far_below_zero_has_finite_gradients():
    layer = InPlaceABN(2, activation="elu")
    with torch.no_grad():
        layer.bias.fill_(-60)
    for dtype in (torch.float32, torch.bfloat16):
        assert all(
            torch.isfinite(result).all()
            for result in run(layer, random_map((2, 2, 8, 8), dtype), random_map((2, 2, 8, 8), dtype))
        )


@pytest.mark.parametrize("training", [True, False])
def test_abs_weight_is_the_convention_of_the_originals(training):
    ours, reference = random_layers(6)
    ours = InPlaceABN(6, abs_weight=True)
    ours.load_state_dict(reference.state_dict())
    ours.train(training), reference.train(training)
    sign = reference.weight.detach().sign()
    with torch.no_grad():
        reference.weight.copy_(reference.weight.abs() + reference.eps)
    x = random_map((2, 6, 5, 4))
    y, grad_x, grad_weight, grad_bias = run(reference, x.double(), x.double())
    assert_close(run(ours, x, x), (y, grad_x, grad_weight * sign, grad_bias), 2e-5)


def test_bfloat16_weights():
    ours, reference = random_layers(4)
    x = random_map((2, 4, 9, 9), torch.bfloat16)
    results = run(ours.bfloat16(), x, x)
    assert {result.dtype for result in results} == {torch.bfloat16}
    assert_close(results, run(reference, x.double(), x.double()), 5e-2)
    assert_close(ours.buffers(), reference.buffers(), 1e-2)


def test_backward_runs_twice_and_changes_nothing():
    layer, leaf = InPlaceABN(4, activation="elu"), random_map((2, 4, 5, 5)).requires_grad_()
    y, grad = layer(Handover.apply(leaf)), random_map((2, 4, 5, 5), seed=1)
    y_before, grad_before = y.detach().clone(), grad.clone()
    first = torch.autograd.grad(y, [leaf, *layer.parameters()], grad, retain_graph=True)
    second = torch.autograd.grad(y, [leaf, *layer.parameters()], grad)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(y, y_before)
    assert torch.equal(grad, grad_before)


def test_second_derivative_is_refused():
    leaf = random_map((2, 4, 5, 5)).requires_grad_()
    y = InPlaceABN(4)(Handover.apply(leaf))
    (grad,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_overwriting_a_map_that_autograd_keeps_is_an_error():
    layer = InPlaceABN(4)
    kept = random_map((2, 4, 5, 5)).requires_grad_().exp()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        layer(kept).sum().backward()
    kept = random_map((2, 4, 5, 5)).requires_grad_().exp()
    with torch.no_grad():
        layer(kept)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()
    with pytest.raises(RuntimeError, match="leaf"):
        layer(random_map((2, 4, 5, 5)).requires_grad_())


def test_part_of_a_map_is_normalised_inside_it():
    ours, reference = random_layers(4)
    leaf = random_map((2, 8, 5, 5)).requires_grad_()
    whole = Handover.apply(leaf)
    ours(whole[:, :4])
    whole.sum().backward()
    expected = leaf.detach().double().requires_grad_()
    torch.cat([reference(expected[:, :4]), expected[:, 4:]], dim=1).sum().backward()
    assert_close([leaf.grad], [expected.grad], 1e-4)


def test_weights_move_between_norms():
    for source, target in itertools.permutations(NORMS, 2):
        torch.manual_seed(0)
        first, second = (get_norm(name)(4, activation="leaky_relu") for name in (source, target))
        nn.init.normal_(first.weight)
        first(random_map((2, 4, 5, 5)))
        assert list(first.state_dict()) == list(nn.BatchNorm2d(4).state_dict())
        second.load_state_dict(first.state_dict())
        x = random_map((2, 4, 5, 5), seed=1)
        assert_close([second.eval()(x.clone())], [first.eval()(x.clone())], 1e-5)


def test_files_without_a_batch_counter_load():
    state = {key: value + 1 for key, value in nn.BatchNorm2d(4).state_dict().items() if key != "num_batches_tracked"}
    for norm in NORMS.values():
        layer = norm(4)
        layer.load_state_dict(dict(state))
        assert torch.equal(layer.running_var, state["running_var"])


def test_factories_default_to_no_activation():
    x = random_map((2, 4, 5, 5))
    expected = nn.BatchNorm2d(4)(x)
    for norm in NORMS.values():
        assert_close([norm(4)(x.clone())], [expected], 1e-5)


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_recomputation_does_not_count_a_batch_twice(norm):
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 4, 3), get_norm(norm)(4, activation="leaky_relu", momentum=None))
    plain, x = copy.deepcopy(block), random_map((2, 4, 6, 6)).requires_grad_()
    plain(x).sum().backward()
    recomputed = checkpoint(
        block, x, use_reentrant=False, context_fn=lambda: (torch.enable_grad(), frozen_statistics(block))
    )
    recomputed.sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(block.buffers(), plain.buffers(), strict=True))
    assert block[1].num_batches_tracked == 1
    assert block[1].momentum is None
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(block.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("layer", [ABN, SyncABN, InPlaceABN, InPlaceABNSync])
def test_wrong_arguments_are_named(layer):
    with pytest.raises(ValueError, match="unknown activation 'gelu'; known: elu, identity, leaky_relu, relu"):
        layer(4, activation="gelu")
    with pytest.raises(ValueError, match="4D"):
        layer(4)(torch.zeros(2, 4))


def test_activation_without_inverse_is_refused():
    with pytest.raises(ValueError, match=r"leaky_relu of parameter -0.1 has no inverse"):
        InPlaceABN(4, activation_param=-0.1)


def test_unknown_norm_is_named():
    with pytest.raises(ValueError, match="unknown norm 'group_norm'; known: batch_norm"):
        get_norm("group_norm")
