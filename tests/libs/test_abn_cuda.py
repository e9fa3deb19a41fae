"""The CUDA kernels against the pure-PyTorch ones on the CPU; and the layer on a GPU."""

import itertools
import math

import pytest
import torch
from torch import nn

from segdistill import libs
from segdistill.libs import functions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(bool(libs.FALLBACK["cuda"]), reason=f"no CUDA kernels: {libs.FALLBACK['cuda']}"),
]
ops = torch.ops.segdistill
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
# Odd and even sizes, one pixel, one channel, few and many channels, more positions than one block covers.
SHAPES = [
    (2, 5, 3, 4),
    (3, 7, 1, 1),
    (1, 4, 33, 40),
    (4, 32, 9, 8),
    (1, 1, 7, 9),
    (5, 64, 3, 3),
    (2, 130, 2, 2),
    (8, 24, 65, 65),
]


def random_map(shape, dtype, layout, seed=0):
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 1).to("cuda", dtype)
    if layout == "sliced":
        return x.new_zeros(shape[0], 2 * shape[1], shape[2], shape[3] + 1)[:, ::2, :, :-1].copy_(x)
    if layout.endswith("channels_last"):
        x = x.contiguous(memory_format=torch.channels_last)
    if layout.startswith("unaligned"):
        return x.new_empty(x.numel() + 1).as_strided(x.shape, x.stride(), 1).copy_(x)
    return x


def in_place(forward):
    """An operator that overwrites its first argument, as a function."""

    def call(x, *arguments):
        last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
        room = x.new_empty(x.storage_offset() + last + 1)
        y = room.as_strided(x.shape, x.stride(), x.storage_offset()).copy_(x)  # as unaligned as x
        forward(y, *arguments)
        return y

    return call


def assert_equals_reference(op, reference, tolerance, *arguments):
    """Compare an operator on the GPU with its pure-PyTorch kernel on the CPU."""
    on_cpu = [value.cpu() if isinstance(value, torch.Tensor) else value for value in arguments]
    results, expected = op(*arguments), reference(*on_cpu)
    if isinstance(results, torch.Tensor):
        results, expected = [results], [expected]
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.isfinite().all()
        scale = theirs.abs().max().item() + 1e-6
        assert (ours.double().cpu() - theirs.double()).abs().max().item() <= tolerance * scale


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "unaligned", "unaligned channels_last"])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_equal_the_reference(shape, dtype, layout):
    unaligned = layout.startswith("unaligned")
    x, grad = random_map(shape, dtype, layout), random_map(shape, dtype, layout if unaligned else "contiguous", seed=1)
    real, tolerance = functions.statistics_dtype(dtype), TOLERANCE[dtype]
    mean, var, weight, bias = torch.rand(4, shape[1], device="cuda", dtype=real) + 0.5

    assert_equals_reference(ops.abn_moments, functions.moments, 1e-5, x)
    for activation in ((0, 0.0), (1, 0.01), (2, 1.0)):
        for affine in ((weight, bias), (None, None)):
            constants = (mean, var, *affine, 1e-5, *activation)
            forward = in_place(ops.abn_forward_)
            assert_equals_reference(forward, in_place(functions.forward_), tolerance, x, *constants)
            y = forward(x, *constants)
            assert all((tensor.data_ptr() % 16 != 0) == unaligned for tensor in (x, y, grad))
            assert_equals_reference(ops.abn_sums, functions.sums, 1e-4, y, grad, *affine, *activation)
            for means in (torch.stack([mean, bias]), None):
                constants = (var, *affine, means, 1e-5, *activation)
                assert_equals_reference(ops.abn_backward, functions.backward, tolerance, y, grad, *constants)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("culprit", "value"),
    [*((index, math.nan) for index in range(6)), *itertools.product((0, 1), (math.inf, -math.inf))],
)
def test_what_is_not_finite_is_so_in_the_same_places_as_in_the_reference(culprit, value, layout):
    """One value of one channel of the map, the gradient, the mean, the variance, the weight or the bias."""
    arguments = [random_map((2, 16, 5, 4), torch.float32, layout, seed) for seed in range(2)]
    arguments += (torch.rand(4, 16, device="cuda") + 0.5).unbind()
    arguments[culprit][(0, 3, 0, 0) if culprit < 2 else 3] = value
    x, grad, mean, var, weight, bias = arguments
    for activation in ((0, 0.0), (1, 0.01), (2, 1.0)):
        calls = [
            ("abn_moments", functions.moments, (x,)),
            ("abn_forward_", in_place(functions.forward_), (x, mean, var, weight, bias, 1e-5, *activation)),
            ("abn_sums", functions.sums, (x, grad, weight, bias, *activation)),
        ]
        for means in (None, torch.stack([mean, bias])):
            calls.append(("abn_backward", functions.backward, (x, grad, var, weight, bias, means, 1e-5, *activation)))
        for name, reference, arguments in calls:
            op = in_place(ops.abn_forward_) if name == "abn_forward_" else getattr(ops, name)
            on_cpu = [a.cpu() if isinstance(a, torch.Tensor) else a for a in arguments]
            results, expected = op(*arguments), reference(*on_cpu)
            for ours, theirs in zip(
                *((r,) if isinstance(r, torch.Tensor) else r for r in (results, expected)), strict=True
            ):
                assert torch.equal(ours.cpu().isfinite(), theirs.isfinite()), name


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "unaligned", "unaligned channels_last"])
@pytest.mark.parametrize(("outlier", "tolerance"), [(None, 2e-6), (0.0, 3e-5)])
def test_variance_of_a_map_far_from_zero(outlier, tolerance, layout):
    x = random_map((4, 8, 40, 50), torch.float32, layout).add_(2e5)
    if outlier is not None:
        x[0, :, 0, 0] = outlier
    mean, var = ops.abn_moments(x)
    assert torch.allclose(var.double(), x.double().var((0, 2, 3), correction=0), rtol=tolerance, atol=0)
    assert torch.allclose(mean.double(), x.double().mean((0, 2, 3)), rtol=2e-7, atol=0)


def test_arguments_on_another_device_are_refused():
    x, grad = (random_map((2, 4, 3, 3), torch.float32, "contiguous", seed) for seed in range(2))
    mean, var, weight, bias = torch.rand(4, 4, device="cuda") + 0.5
    for y, other in ((x, grad.cpu()), (x.cpu(), grad)):
        with pytest.raises(RuntimeError, match="device"):
            ops.abn_sums(y, other, None, None, 0, 0.0)
        with pytest.raises(RuntimeError, match="device"):
            ops.abn_backward(y, other, var.to(y.device), None, None, None, 1e-5, 0, 0.0)
    with pytest.raises(RuntimeError, match="device"):
        ops.abn_forward_(x, mean.cpu(), var, weight, bias, 1e-5, 0, 0.0)
    with pytest.raises(RuntimeError, match="device"):
        ops.abn_forward_(x.cpu(), mean, var, weight, bias, 1e-5, 0, 0.0)


def test_maps_without_channels_or_elements():
    for shape in ((0, 4, 3, 3), (2, 4, 0, 3)):
        leaf, layer = torch.zeros(shape, device="cuda", requires_grad=True), libs.InPlaceABN(4).cuda().eval()
        layer(leaf * 1).sum().backward()
        assert leaf.grad.shape == shape
        assert layer.weight.grad.tolist() == [0] * 4
    with pytest.raises(RuntimeError, match="channels"):
        ops.abn_moments(torch.zeros(2, 0, 3, 3, device="cuda"))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_opcheck(layout):
    x = random_map((2, 8, 5, 3), torch.float32, layout)
    vectors = [torch.rand(8, device="cuda") + 0.5 for _ in range(4)]
    mean, var, weight, bias = vectors
    torch.library.opcheck(ops.abn_moments.default, (x,))
    torch.library.opcheck(ops.abn_forward_.default, (x, *vectors, 1e-5, 1, 0.01))
    torch.library.opcheck(ops.abn_sums.default, (x, x.clone(), weight, bias, 1, 0.01))
    torch.library.opcheck(ops.abn_backward.default, (x, x.clone(), var, weight, bias, None, 1e-5, 1, 0.01))
    arguments = (x, mean, var, weight.requires_grad_(), bias.requires_grad_(), None, True, 1e-5, 1, 0.01, None)
    torch.library.opcheck(ops.inplace_abn_.default, arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_training_step_is_as_close_to_float32_as_batch_norm(dtype):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 33, 33, device="cuda")
    errors = {}
    for norm in ("batch_norm", "inplace_abn"):
        torch.manual_seed(0)
        make_norm = libs.get_norm(norm)
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3), make_norm(16, activation="leaky_relu"), nn.Conv2d(16, 8, 3), make_norm(8)
        )
        net.cuda()
        grads = []
        for enabled in (False, True):
            net.zero_grad()
            with torch.autocast("cuda", dtype=dtype, enabled=enabled):
                y = net(x)
            (y.float() * torch.linspace(-1, 1, y.numel(), device="cuda").view_as(y)).sum().backward()
            grads.append([net[0].weight.grad.clone(), net[1].weight.grad.clone(), net[1].bias.grad.clone()])
        errors[norm] = [((a - b).norm() / b.norm()).item() for a, b in zip(*grads, strict=True)]
    assert all(a <= 2 * b + 2e-3 for a, b in zip(errors["inplace_abn"], errors["batch_norm"], strict=True))


def test_results_are_the_same_in_every_run():
    x, grad = (random_map((8, 64, 65, 65), torch.bfloat16, "channels_last", seed) for seed in range(2))
    runs = [(*ops.abn_moments(x), ops.abn_sums(x, grad, None, None, 1, 0.01)) for _ in range(3)]
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_compiled_network_equals_eager():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), libs.InPlaceABN(16)).cuda().eval()
    x = torch.randn(2, 3, 20, 20, device="cuda")
    assert torch.allclose(torch.compile(net, fullgraph=True)(x), net(x), atol=1e-4)
