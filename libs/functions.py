"""The operators of in-place activated BatchNorm: schemas, pure-PyTorch kernels, shapes for tracing, gradient.

Rota Bulo, Porzi, Kontschieder, "In-Place Activated BatchNorm for Memory-Optimized Training of DNNs", CVPR 2018.
The forward pass writes y = activation(gamma * x_hat + beta) over x; the backward pass inverts the activation, reads
x_hat = (z - beta) / gamma off the result, and so needs nothing but y and one variance per channel.

Tensors are (N, C, H, W) of any strides; vectors are (C,) in float32, or float64 with a float64 map. The kernels here
work on every device; ``segdistill.libs.extension`` replaces them by the compiled ones of ``libs/src``.
"""

from __future__ import annotations  # torch.distributed is empty in some builds of torch

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

INVERTIBLE = ("identity", "leaky_relu", "elu")  # the kernels know an activation by its index
MIN_WEIGHT = 1e-5
PIECE = 2**20  # elements

LIBRARY = torch.library.Library("segdistill", "DEF")
LIBRARY.define("abn_moments(Tensor x) -> (Tensor mean, Tensor var)")
LIBRARY.define(
    "abn_forward_(Tensor(a!) x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, float eps, int activation, "
    "float param) -> ()"
)
LIBRARY.define("abn_sums(Tensor y, Tensor grad, Tensor? weight, Tensor? bias, int activation, float param) -> Tensor")
LIBRARY.define(
    "abn_backward(Tensor y, Tensor grad, Tensor var, Tensor? weight, Tensor? bias, Tensor? means, float eps, "
    "int activation, float param) -> Tensor"
)
LIBRARY.define(
    "inplace_abn_(Tensor(a!) x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, Tensor? count, "
    "bool batch_statistics, float eps, int activation, float param, str? group) -> ()"
)
ops = torch.ops.segdistill
aten = torch.ops.aten


def activate(z: Tensor, activation: str, param: float, inplace: bool = False) -> Tensor:
    """Apply ``identity``, ``relu``, ``leaky_relu`` (slope ``param``) or ``elu`` (alpha ``param``)."""
    if activation == "identity":
        return z
    if activation == "relu":
        return F.relu(z, inplace)
    if activation == "leaky_relu":
        return F.leaky_relu(z, param, inplace)
    if activation == "elu":
        return F.elu(z, param, inplace)
    raise ValueError(f"unknown activation {activation!r}; known: elu, identity, leaky_relu, relu")


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def per_channel(vector: Tensor) -> Tensor:
    return vector[None, :, None, None]


def invertible_weight(weight: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The weight, its magnitude held at 1e-5 + epsilon(dtype) * |bias| or more, its sign kept.

    Under that bound the rounding of y to ``dtype`` leaves nothing of x_hat to recover.
    """
    if weight is None:
        return None
    return torch.copysign(weight.abs().maximum(MIN_WEIGHT + torch.finfo(dtype).eps * bias.abs()), weight)


def dense(x: Tensor) -> Tensor:
    """``x`` itself if it is contiguous or channels_last, else a contiguous copy."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def pieces(*maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The maps in slices of a few samples, which keep the temporary float32 tensors of the kernels below small."""
    samples = max(1, PIECE // max(1, maps[0][:1].numel()))
    return zip(*(x.split(samples) for x in maps), strict=True)


def check(x: Tensor, *vectors: Tensor | None, activation: int = 0, grad: Tensor | None = None) -> None:
    """Check shapes, dtypes and devices as the compiled kernels do. The last vectors are weight and bias."""
    if x.dim() != 4 or x.shape[1] == 0:
        raise ValueError(f"expected a map (N, C, H, W) with channels, got one of shape {tuple(x.shape)}")
    if grad is not None and (grad.shape, grad.dtype, grad.device) != (x.shape, x.dtype, x.device):
        got, expected = (f"{tuple(t.shape)} of {t.dtype} on {t.device}" for t in (grad, x))
        raise ValueError(f"gradient and output differ: {got}, but {expected}")
    for vector in vectors:
        if vector is not None and (vector.numel(), vector.device) != (x.shape[1], x.device):
            got = f"{vector.numel()} on {vector.device}"
            raise ValueError(f"expected a vector of {x.shape[1]} values on {x.device}, got {got}")
    if not 0 <= activation < len(INVERTIBLE):
        raise ValueError(
            f"unknown activation {activation}; known: 0 to {len(INVERTIBLE) - 1}, for {', '.join(INVERTIBLE)}"
        )
    if vectors and (vectors[-1] is None) != (vectors[-2] is None):
        raise ValueError("expected weight and bias or neither, got one of them")


def kernel(name: str, fake: Callable) -> Callable:
    """Register a function as the pure-PyTorch kernel of an operator, and ``fake`` for the shape of its result."""

    def register(function: Callable) -> Callable:
        function = torch.no_grad()(function)  # gradients are inplace_abn_'s alone
        LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"segdistill::{name}", fake, lib=LIBRARY)
        return function

    return register


def empty_statistics(x: Tensor, *sizes: int) -> Tensor:
    return x.new_empty((*sizes, x.shape[1]), dtype=statistics_dtype(x.dtype))


@kernel("abn_moments", fake=lambda x: (empty_statistics(x), empty_statistics(x)))
def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel."""
    check(x)
    mean = x.mean((0, 2, 3), dtype=statistics_dtype(x.dtype))
    squares = sum((piece - per_channel(mean)).square_().sum((0, 2, 3)) for (piece,) in pieces(x))
    return mean, squares / (x.numel() // x.shape[1])


@kernel("abn_forward_", fake=lambda *arguments: None)
def forward_(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: int,
    param: float,
) -> None:
    """Normalise and activate ``x`` in place."""
    check(x, mean, var, weight, bias, activation=activation)
    weight = invertible_weight(weight, bias, x.dtype)
    for (piece,) in pieces(x):
        z = F.batch_norm(piece, mean, var, weight, bias, False, 0.0, eps)
        piece.copy_(activate(z, INVERTIBLE[activation], param, inplace=True))


def recover(
    y: Tensor, grad: Tensor, weight: Tensor | None, bias: Tensor | None, activation: int, param: float
) -> tuple[Tensor, Tensor]:
    """x_hat and the gradient with respect to z, from y = activation(z) and the gradient with respect to y."""
    dtype = statistics_dtype(y.dtype)
    z, dz = y.to(dtype), grad.to(dtype)
    if INVERTIBLE[activation] == "leaky_relu":
        dz = aten.leaky_relu_backward(dz, z, param, True)
        z = F.leaky_relu(z, 1 / param)
    elif INVERTIBLE[activation] == "elu":
        dz = torch.where(z > 0, dz, dz * (z + param))  # aten's gives or drops a NaN by the position
        # y rounds to -param for very negative z; the logarithm must stay finite there.
        z = torch.where(z > 0, z, (z / param).clamp_(min=torch.finfo(y.dtype).eps / 2 - 1).log1p_())
    if weight is not None:
        z = torch.sub(z, per_channel(bias)).div_(per_channel(invertible_weight(weight, bias, y.dtype)))
    return z, dz


@kernel("abn_sums", fake=lambda y, *arguments: empty_statistics(y, 2))
def sums(y: Tensor, grad: Tensor, weight: Tensor | None, bias: Tensor | None, activation: int, param: float) -> Tensor:
    """(2, C): the sums of dz and of dz * x_hat, which are the gradients of bias and weight."""
    check(y, weight, bias, activation=activation, grad=grad)
    total = empty_statistics(y, 2).zero_()
    for piece in pieces(y, grad):
        x_hat, dz = recover(*piece, weight, bias, activation, param)
        total += torch.stack([dz.sum((0, 2, 3)), (dz * x_hat).sum((0, 2, 3))])
    return total


@kernel("abn_backward", fake=lambda y, *arguments: torch.empty_like(dense(y)))
def backward(
    y: Tensor,
    grad: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    means: Tensor | None,
    eps: float,
    activation: int,
    param: float,
) -> Tensor:
    """The gradient with respect to x; ``means`` are the ``sums`` over the element count, None in eval mode."""
    check(y, *(() if means is None else means), var, weight, bias, activation=activation, grad=grad)
    scale = (var + eps).rsqrt()
    if weight is not None:
        scale = scale * invertible_weight(weight, bias, y.dtype)
    grad_x = torch.empty_like(dense(y))
    for *piece, result in pieces(y, grad, grad_x):
        x_hat, dz = recover(*piece, weight, bias, activation, param)
        if means is not None:
            dz = torch.sub(dz, per_channel(means[0])).addcmul_(x_hat, per_channel(means[1]), value=-1)
        result.copy_(dz * per_channel(scale))
    return grad_x


class InPlaceABNFunction(torch.autograd.Function):
    """Backward of ``inplace_abn_``; it mutates nothing, so that it may run twice, and has no second derivative."""

    @staticmethod
    def forward(ctx, x, mean, var, weight, bias, count, batch_statistics, eps, activation, param, group):
        vectors = cast(statistics_dtype(x.dtype), mean, var, weight, bias)
        # Without grad mode, as a Function's forward runs, torch.compile would keep the mutation of x from autograd.
        with torch.enable_grad(), torch._C._AutoDispatchBelowAutograd():
            ops.abn_forward_(x, *vectors, eps, activation, param)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, var, weight, bias, count)
        ctx.batch_statistics, ctx.eps, ctx.activation, ctx.group = batch_statistics, eps, (activation, param), group
        return x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        y, *vectors, count = ctx.saved_tensors
        var, weight, bias = cast(statistics_dtype(y.dtype), *vectors)
        total = ops.abn_sums(y, grad, weight, bias, *ctx.activation)
        means = mean_over_batch(total, y, count, ctx.group) if ctx.batch_statistics else None
        grad_x = ops.abn_backward(y, grad, var, weight, bias, means, ctx.eps, *ctx.activation)
        grad_weight, grad_bias = weight_gradients(total, vectors[1])
        return grad_x, None, None, grad_weight, grad_bias, *[None] * 6


class SyncNormalize(torch.autograd.Function):
    """BatchNorm by the moments of all processes. Out of place; keeps x, as ``nn.BatchNorm2d`` does."""

    @staticmethod
    def forward(ctx, x, mean, var, weight, bias, count, eps, group):
        ctx.save_for_backward(x, mean, var, weight, count)
        ctx.eps, ctx.group = eps, group
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, mean, var, weight, count = ctx.saved_tensors
        x_hat = F.batch_norm(x, mean, var, None, None, False, 0.0, ctx.eps)
        total = ops.abn_sums(x_hat, grad, None, None, 0, 0.0)
        means = mean_over_batch(total, x, count, ctx.group)
        grad_x = ops.abn_backward(x_hat, grad, var, None, None, means, ctx.eps, 0, 0.0)
        if weight is not None:
            grad_x = (grad_x * per_channel(weight)).to(x.dtype)
        grad_weight, grad_bias = weight_gradients(total, weight)
        return grad_x, None, None, grad_weight, grad_bias, None, None, None


def cast(dtype: torch.dtype, *vectors: Tensor | None) -> list[Tensor | None]:
    return [None if vector is None else vector.to(dtype) for vector in vectors]


def weight_gradients(total: Tensor, weight: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of weight and bias from the ``sums`` of this process; DistributedDataParallel averages them."""
    return (None, None) if weight is None else (total[1].to(weight.dtype), total[0].to(weight.dtype))


def mean_over_batch(total: Tensor, x: Tensor, count: Tensor | None, group: str | None) -> Tensor:
    """``sums`` over all processes' elements, divided by their ``count``."""
    return total / (x.numel() // x.shape[1]) if group is None else all_reduce(total, group) / count


def all_reduce(x: Tensor, group: dist.ProcessGroup | str) -> Tensor:
    """The sum of every process's ``x``; no gradient. A functional collective, because torch.compile sees those."""
    from torch.distributed._functional_collectives import all_reduce as functional_all_reduce

    return functional_all_reduce(x, "sum", group)


def gather_moments(mean: Tensor, var: Tensor, count: int, group: dist.ProcessGroup) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and element count over all processes, whose counts may differ (Chan et al., 1979)."""
    rows = mean.new_zeros(dist.get_world_size(group), 2 * mean.numel() + 1)
    rows[dist.get_rank(group)] = torch.cat([mean, var, mean.new_full((1,), count)])
    means, variances, counts = all_reduce(rows, group).split([mean.numel(), mean.numel(), 1], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    return mean, (counts * (variances + (means - mean).square())).sum(0) / total, total


@kernel("inplace_abn_", fake=lambda *arguments: None)
def inplace_abn_(x, mean, var, weight, bias, count, batch_statistics, eps, activation, param, group):
    """``abn_forward_`` with a gradient; what it does not need itself is for the backward pass.

    Args:
        count: elements per channel over all processes; read only with a ``group``.
        batch_statistics: mean and var depend on x, and the gradient says so.
        group: name of the process group that the moments come from, None for this process alone.
    """
    ops.abn_forward_(x, *cast(statistics_dtype(x.dtype), mean, var, weight, bias), eps, activation, param)


def _inplace_abn_with_gradient(*arguments) -> None:
    InPlaceABNFunction.apply(*arguments)


LIBRARY.impl("inplace_abn_", _inplace_abn_with_gradient, "Autograd")
