"""The operators under torch.library's own checks, torch.compile, torch.export and autocast."""

import pytest
import torch
from torch import nn
from torch.library import opcheck

from segdistill.libs import get_norm

ops = torch.ops.segdistill
LEAKY_RELU = (1, 0.01)


class Net(nn.Module):
    """Fused pairs, a residual sum whose activation is in place, and the pair that cannot be fused."""

    def __init__(self, norm):
        super().__init__()
        make_norm = get_norm(norm)
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = make_norm(8, activation="leaky_relu")
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = make_norm(8)
        self.conv3 = nn.Conv2d(8, 8, 1, bias=False)
        self.norm3 = make_norm(8, activation="relu")

    def forward(self, x):
        x = self.norm1(self.conv1(x))
        x = nn.functional.leaky_relu(x + self.norm2(self.conv2(x)), inplace=True)
        return self.norm3(self.conv3(x))


def twins(*norms):
    """One network of each norm, all of the same weights."""
    torch.manual_seed(0)
    networks = [Net(norm) for norm in norms]
    for network in networks[1:]:
        network.load_state_dict(networks[0].state_dict())
    return networks


def random_map(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def vectors():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(4, generator=generator) + 0.5 for _ in range(4)]


def train_step(net, call, x, autocast=False):
    """Output, gradients and buffers of one training step."""
    net.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        y = call(x)
    (y.float() * random_map(*y.shape)).sum().backward()
    return [y.detach(), *(p.grad for p in net.parameters()), *(b.clone() for b in net.buffers())]


def assert_close(results, expected, tolerance):
    for a, b in zip(results, expected, strict=True):
        assert a.shape == b.shape
        assert (a.float() - b.float()).norm() <= tolerance * b.float().norm()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_opcheck_of_the_kernels(layout):
    mean, var, weight, bias = vectors()
    x, y, grad = (random_map(2, 4, 5, 3).contiguous(memory_format=layout) for _ in range(3))
    for weights in ((weight, bias), (None, None)):
        opcheck(ops.abn_moments.default, (x,))
        opcheck(ops.abn_forward_.default, (x, mean, var, *weights, 1e-5, *LEAKY_RELU))
        opcheck(ops.abn_sums.default, (y, grad, *weights, *LEAKY_RELU))
        for means in (torch.stack([mean, var]), None):
            opcheck(ops.abn_backward.default, (y, grad, var, *weights, means, 1e-5, *LEAKY_RELU))


@pytest.mark.parametrize("batch_statistics", [True, False])
@pytest.mark.parametrize("x_requires_grad", [True, False])
def test_opcheck_of_the_layer(x_requires_grad, batch_statistics):
    mean, var, weight, bias = vectors()
    x = random_map(2, 4, 5, 3).requires_grad_(x_requires_grad) * 1
    for weights in ((weight.requires_grad_(), bias.requires_grad_()), (None, None)):
        opcheck(ops.inplace_abn_.default, (x, mean, var, *weights, None, batch_statistics, 1e-5, *LEAKY_RELU, None))


@pytest.mark.parametrize(
    ("norm", "autocast"), [("inplace_abn", False), ("inplace_abn_sync", True), ("sync_batch_norm", False)]
)
def test_compiled_training_step_equals_eager(norm, autocast):
    net, other = twins(norm, norm)
    x = random_map(2, 3, 12, 10)
    torch.compiler.reset()
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    assert_close(train_step(other, compiled, x, autocast), train_step(net, net, x, autocast), 1e-5)


# The disk cache does not know the gradients of operators, and would serve those of an older checkout.
@torch.compiler.config.patch(force_disable_caches=True)
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_layer_overwrites_a_map_from_outside_the_graph(backend):
    layers = [get_norm("inplace_abn")(4, activation="leaky_relu") for _ in range(2)]
    torch.compiler.reset()
    calls = (layers[0], torch.compile(layers[1], fullgraph=True, backend=backend))
    results = []
    for layer, call in zip(layers, calls, strict=True):
        leaf = random_map(2, 4, 6, 5).requires_grad_()
        x = leaf * 1
        y = call(x)
        assert torch.equal(x, y)
        y.square().sum().backward()
        results.append([y.detach(), leaf.grad, *(p.grad for p in layer.parameters()), *layer.buffers()])
    assert_close(*results, 1e-5)


def test_bfloat16_autocast_is_as_close_to_float32_as_batch_norm():
    x, errors = random_map(4, 3, 20, 20), {}
    for norm in ("batch_norm", "inplace_abn"):
        plain, net = twins("batch_norm", norm)
        exact, results = train_step(plain, plain, x), train_step(net, net, x, autocast=True)
        assert results[0].dtype == torch.bfloat16
        errors[norm] = [
            ((a.float() - b.float()).norm() / b.float().norm()).item() for a, b in zip(results, exact, strict=True)
        ]
    assert all(a <= 2 * b + 2e-3 for a, b in zip(errors["inplace_abn"], errors["batch_norm"], strict=True))


@pytest.mark.parametrize("strict", [False, True])
def test_exported_network_equals_eager_at_any_size(strict):
    net = Net("inplace_abn").eval()
    size = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    program = torch.export.export(net, (random_map(2, 3, 12, 10),), dynamic_shapes=(size,), strict=strict)
    x = random_map(3, 3, 7, 16)
    assert torch.equal(program.module()(x), net(x))
    assert torch.allclose(program.run_decompositions().module()(x), net(x), atol=1e-6)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_meta_tensors_predict_shapes_and_strides(layout):
    x = random_map(2, 8, 5, 6)
    x = x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x
    x = x[:, ::2, :, :-1] if layout == "sliced" else x
    _, var, weight, bias = (v.repeat(x.shape[1] // 4) for v in vectors())
    arguments = (x, x, var, weight, bias, None, 1e-5, *LEAKY_RELU)
    real = ops.abn_backward(*arguments)
    meta = ops.abn_backward(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments))
    assert (real.shape, real.stride(), real.dtype) == (meta.shape, meta.stride(), meta.dtype)
