"""One process or many (torchrun): everything here is the identity without a process group."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of every process's ``x``; no gradient."""
    if world_size() == 1:
        return x
    x = x.detach().clone()
    dist.all_reduce(x)
    return x


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of every process's ``x``; no gradient."""
    return sum_over_processes(x) / world_size()


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over processes, as DistributedDataParallel does for the student."""
    if world_size() == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.copy_(mean_over_processes(parameter.grad))
