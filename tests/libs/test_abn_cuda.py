"""The CUDA kernels against the pure-PyTorch ones on the CPU; and the layer on a GPU."""

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
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        return x.new_zeros(shape[0], 2 * shape[1], shape[2], shape[3] + 1)[:, ::2, :, :-1].copy_(x)
    if layout == "unaligned":
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(shape)
    return x


def in_place(forward):
    """An operator that overwrites its first argument, as a function."""

    def call(x, *arguments):
        y = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(x)
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


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "unaligned"])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_equal_the_reference(shape, dtype, layout):
    x, grad = random_map(shape, dtype, layout), random_map(shape, dtype, "contiguous", seed=1)
    real, tolerance = functions.statistics_dtype(dtype), TOLERANCE[dtype]
    mean, var, weight, bias = torch.rand(4, shape[1], device="cuda", dtype=real) + 0.5

    assert_equals_reference(ops.abn_moments, functions.moments, 1e-5, x)
    for activation in ((0, 0.0), (1, 0.01), (2, 1.0)):
        for affine in ((weight, bias), (None, None)):
            constants = (mean, var, *affine, 1e-5, *activation)
            forward = in_place(ops.abn_forward_)
            assert_equals_reference(forward, in_place(functions.forward_), tolerance, x, *constants)
            y = forward(x, *constants)
            assert_equals_reference(ops.abn_sums, functions.sums, 1e-4, y, grad, *affine, *activation)
            for means in (torch.stack([mean, bias]), None):
                constants = (var, *affine, means, 1e-5, *activation)
                assert_equals_reference(ops.abn_backward, functions.backward, tolerance, y, grad, *constants)


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
