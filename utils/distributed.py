"""Collective operations (torchrun, torch.distributed.launch); without a process group each is the identity."""

import os
import re
from collections.abc import Iterable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
MINUTES = 10  # that a process waits for the others
GLOO = ("/gloo/", "Application timeout caused pair closure")


def start_device(
    name: str | None = None, deterministic: bool = False, timeout_minutes: float = MINUTES
) -> torch.device:
    """Join torchrun's process group if there is one, and pick this process's device (cuda if there is one).

    With ``deterministic``, operations that are not reproducible are replaced or raise RuntimeError. A collective
    operation that takes longer than ``timeout_minutes`` fails: another process, its machine or the network is gone.

    Raises:
        ValueError: not a device, or one that this machine does not have.
        OSError: the processes do not reach each other.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"--device {name}: expected cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", device.index or 0)))
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"--device {name}: no {device} here, PyTorch sees {torch.cuda.device_count()} GPUs")
        torch.cuda.set_device(device)
    if "RANK" in os.environ and not dist.is_initialized():
        try:
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
        except RuntimeError as error:
            if not is_of_peers(error):
                raise
            raise OSError(
                f"the processes do not reach each other ({reason_of(error)}): start them with torchrun; if a machine's "
                "name stands for 127.0.0.1 or it has several addresses, GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME names "
                "its interface"
            ) from error
    return device


def is_of_peers(error: BaseException) -> bool:
    """Whether an error is that of a collective operation: another process is gone or too slow."""
    # Gloo's are plain RuntimeErrors, most with a place in its source.
    return isinstance(error, dist.DistError) or any(words in str(error) for words in GLOO)


def reason_of(error: BaseException) -> str:
    """The first sentence of a collective operation's error, without the places in its source."""
    return re.split(r"\.? *\n|\. ", re.sub(r"\[\S+\.\w+:\d+\] ", "", str(error)))[0]


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def collective_device() -> torch.device:
    """The device on which the process group reduces tensors."""
    nccl = dist.is_initialized() and dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is set in any process; every process must call it."""
    if world_size() == 1:
        return flag
    return bool(sum_over_processes(torch.tensor(float(flag), device=collective_device())))


def wait_for_all() -> None:
    """Barrier: return when every process has called it."""
    if world_size() > 1:
        dist.barrier()


def of_first_process(value: T) -> T:
    """The first process's ``value``, which pickle can write; every process must call it."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of every process's ``x``; no gradient."""
    if world_size() == 1:
        return x
    x = x.detach().clone()
    dist.all_reduce(x)
    return x


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of every process's ``x``; no gradient."""
    return sum_over_processes(x) / world_size() if world_size() > 1 else x


def gather_rows(x: Tensor) -> Tensor:
    """``x`` (R, ...) of all processes, R of each the same, in the order of the processes; no gradient."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


@torch.no_grad()
def share_buffers(module: nn.Module) -> None:
    """Broadcast the first process's buffers: BatchNorm statistics that were not synchronised."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over processes, as DistributedDataParallel does for the student."""
    if world_size() == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.copy_(mean_over_processes(parameter.grad))
