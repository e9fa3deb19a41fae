"""BatchNorm followed by an activation, as one layer with one set of weights: plain, in place, and over processes.

All have the state dict of ``nn.BatchNorm2d`` (weight, bias, running_mean, running_var, num_batches_tracked), so that it
loads into any other of them; num_batches_tracked may be missing, as for BatchNorm2d.
"""

from __future__ import annotations  # torch.distributed is empty in some builds of torch

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segdistill.libs.functions import INVERTIBLE, SyncNormalize, activate, gather_moments, ops

DEFAULT_PARAM = {"identity": 0.0, "relu": 0.0, "leaky_relu": 0.01, "elu": 1.0}


class ABN(nn.BatchNorm2d):
    """Standard BatchNorm2d, then the activation: (N, C, H, W) to a new map of the same shape.

    Args:
        num_features, eps, momentum, affine, track_running_stats: see ``nn.BatchNorm2d``.
        activation: "identity", "relu", "leaky_relu" or "elu".
        activation_param: slope of leaky_relu (None: 0.01) or alpha of elu (None: 1).

    Raises:
        ValueError: an unknown activation; an input that is not 4-D or, in training, has one value per channel.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        activation: str = "leaky_relu",
        activation_param: float | None = None,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        if activation not in DEFAULT_PARAM:
            raise ValueError(f"unknown activation {activation!r}; known: {', '.join(sorted(DEFAULT_PARAM))}")
        self.activation = activation
        self.activation_param = DEFAULT_PARAM[activation] if activation_param is None else activation_param

    def forward(self, x: Tensor) -> Tensor:
        return activate(super().forward(x), self.activation, self.activation_param)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation}, activation_param={self.activation_param}"

    def sync_group(self) -> dist.ProcessGroup | None:
        """The process group that shares statistics; None for this process only."""
        return None

    @torch.no_grad()
    def batch_moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | int]:
        """Mean, biased variance and element count of each channel; updates the running statistics."""
        group, count = self.sync_group(), x.shape[0] * x.shape[2] * x.shape[3]
        if group is None and count < 2:
            raise ValueError(f"expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
        mean, var = ops.abn_moments(x)
        if group is not None:
            mean, var, count = gather_moments(mean, var, count, group)
        if self.training and self.track_running_stats:
            self._track(mean, var * (count / (count - 1)))
        return mean, var, count

    def _track(self, mean: Tensor, unbiased_var: Tensor) -> None:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased_var)):
            momentum = self.momentum
            if momentum is None:
                momentum = self.num_batches_tracked.to(running.dtype).reciprocal()
            running.lerp_(new.to(running.dtype), momentum)


class Synchronized:
    """Mixin of the layers whose training statistics are those of all processes."""

    def __init__(self, *args, group: dist.ProcessGroup | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.group = group

    def sync_group(self) -> dist.ProcessGroup | None:
        if not (self.training and dist.is_available() and dist.is_initialized()):
            return None
        group = self.group or dist.group.WORLD
        return group if dist.get_world_size(group) > 1 else None


class SyncABN(Synchronized, ABN):
    """ABN whose training statistics are those of all processes, as ``nn.SyncBatchNorm``, on the CPU (gloo) as well.

    The processes may hold batches of different sizes. Gradients of weight and bias stay those of the process, for
    DistributedDataParallel to average. Without a process group, or with one process, this is ABN.

    Args:
        group: the process group, None for all processes. The others: see ABN.
    """

    def forward(self, x: Tensor) -> Tensor:
        group = self.sync_group()
        if group is None:
            return super().forward(x)
        self._check_input_dim(x)
        mean, var, count = self.batch_moments(x)
        z = SyncNormalize.apply(x, mean, var, self.weight, self.bias, count, self.eps, group.group_name)
        return activate(z, self.activation, self.activation_param)


class InPlaceABN(ABN):
    """In-place ABN: the output overwrites the input ``x`` in memory.

    The backward pass recovers what it needs from the output, so that BatchNorm and activation together keep one map
    and not two (Rota Bulo et al., CVPR 2018). x must not be a leaf that requires a gradient, nor a map that an earlier
    layer keeps for its own backward pass (autograd raises an error then); the output of a convolution, a sum or a
    concatenation is fine. There is no second derivative: asking for one is an error.

    ReLU cannot be inverted: "relu" normalises in place and applies ReLU out of place.

    Weights mean the same as in BatchNorm2d. A weight near 0 cannot be divided by: its magnitude is held at
    1e-5 + epsilon * abs(bias) or more, epsilon the resolution of the input's dtype. There the output differs from
    BatchNorm2d by less than that bound times x_hat, which is about the rounding of the output itself, and x_hat is
    recovered to about half a unit; the gradient of the weight is that of the unbounded one, so that it can leave.
    Elu maps z < log(epsilon) to one value; z is recovered as log(epsilon / 2) there.

    Args:
        abs_weight: use abs(weight) + eps for the weight, as the original implementations do; for their files.
        The others: see ABN.

    Raises:
        ValueError: as ABN, and a slope or alpha that is not positive.
    """

    def __init__(self, *args, abs_weight: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        if self.activation in ("leaky_relu", "elu") and self.activation_param <= 0:
            raise ValueError(f"{self.activation} of parameter {self.activation_param} has no inverse; give one above 0")
        self.abs_weight = abs_weight

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        batch_statistics = self.training or self.running_mean is None
        if batch_statistics:
            mean, var, count = self.batch_moments(x)
        else:
            mean, var, count = self.running_mean, self.running_var, None
        group = self.sync_group()
        weight = self.weight.abs() + self.eps if self.abs_weight and self.affine else self.weight
        activation = INVERTIBLE.index("identity" if self.activation == "relu" else self.activation)
        constants = (batch_statistics, self.eps, activation, self.activation_param)
        if group is None:
            ops.inplace_abn_(x, mean, var, weight, self.bias, None, *constants, None)
        else:
            ops.inplace_abn_(x, mean, var, weight, self.bias, count, *constants, group.group_name)
        return F.relu(x) if self.activation == "relu" else x


class InPlaceABNSync(Synchronized, InPlaceABN):
    """InPlaceABN whose training statistics are those of all processes; see SyncABN.

    Args:
        group: the process group, None for all processes. The others: see InPlaceABN.
    """


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Within the context, BatchNorm layers in ``module`` do not update their running statistics.

    For the recomputation of activation checkpointing, which would count each batch twice:
    ``checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), frozen_statistics(block)))``.
    Under torch.compile give no ``context_fn``: it accepts none of this kind, and its recomputation updates nothing.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    settings = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, settings, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, count


batch_norm = partial(ABN, activation="identity")

NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch_norm": batch_norm,
    "sync_batch_norm": partial(SyncABN, activation="identity"),
    "inplace_abn": partial(InPlaceABN, activation="identity"),
    "inplace_abn_sync": partial(InPlaceABNSync, activation="identity"),
}


def get_norm(name: str) -> Callable[..., nn.Module]:
    """The factory ``norm(num_features, activation="identity", **options)`` called ``name``; see ABN for the options."""
    if name not in NORMS:
        raise ValueError(f"unknown norm {name!r}; known: {', '.join(sorted(NORMS))}")
    return NORMS[name]
