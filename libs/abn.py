"""BatchNorm followed by an activation, as one layer with one set of weights."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


def activate(x: Tensor, activation: str, param: float) -> Tensor:
    """Apply ``identity``, ``relu``, ``leaky_relu`` (slope ``param``) or ``elu`` (alpha ``param``)."""
    if activation == "identity":
        return x
    if activation == "relu":
        return F.relu(x)
    if activation == "leaky_relu":
        return F.leaky_relu(x, param)
    if activation == "elu":
        return F.elu(x, param)
    raise ValueError(f"unknown activation {activation!r}; known: elu, identity, leaky_relu, relu")


class ABN(nn.BatchNorm2d):
    """Standard BatchNorm2d, then the activation."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        activation: str = "leaky_relu",
        activation_param: float = 0.01,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.activation = activation
        self.activation_param = activation_param

    def forward(self, x: Tensor) -> Tensor:
        return activate(super().forward(x), self.activation, self.activation_param)


def batch_norm(num_features: int, activation: str = "identity", **options) -> nn.Module:
    return ABN(num_features, activation=activation, **options)


NORMS: dict[str, Callable[..., nn.Module]] = {"batch_norm": batch_norm}


def get_norm(name: str) -> Callable[..., nn.Module]:
    """The factory ``norm(num_features, activation="identity", **options)`` called ``name``."""
    if name not in NORMS:
        raise ValueError(f"unknown norm {name!r}; known: {', '.join(sorted(NORMS))}")
    return NORMS[name]
