"""Two gloo processes with batches of different sizes against one process that holds both."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from segdistill.libs import ABN, get_norm

NORMS = ("sync_batch_norm", "inplace_abn_sync")
SHARES = (slice(0, 2), slice(2, 5))


def build(make_norm):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), make_norm(6, activation="elu"), nn.Conv2d(6, 4, 3), make_norm(4, activation="leaky_relu")
    )
    return net.double()


def train(net, call, x):
    """Outputs, gradients and running statistics of two steps of a loss that is a sum over samples."""
    results = []
    for _ in range(2):
        net.zero_grad()
        y = call(x)
        (y * torch.linspace(-1, 1, y[0].numel(), dtype=y.dtype).view_as(y[0])).square().sum().backward()
        results += [y.detach(), *(p.grad for p in net.parameters()), *(b.clone() for b in net.buffers())]
    return results


def whole_batch():
    return torch.randn(5, 3, 8, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    results = {}
    for norm in NORMS:
        net = build(get_norm(norm))
        results[norm] = train(net, net, whole_batch()[SHARES[rank]])
    for norm in NORMS[1:]:
        net = build(get_norm(norm))
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
        results[norm, "compiled"] = train(net, compiled, whole_batch()[SHARES[rank]])
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    mp.start_processes(process, (str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    net = build(ABN)
    expected = train(net, net, whole_batch())
    parameters = len(list(net.parameters()))
    for key in first:
        for index, value in enumerate(expected):
            ours = (first[key][index], second[key][index])
            kind = index % (len(expected) // 2)
            if kind == 0:
                assert torch.allclose(torch.cat(ours), value, atol=1e-12), key
            elif kind <= parameters:
                assert torch.allclose(sum(ours), value, atol=1e-10), key
            else:
                assert torch.allclose(ours[0], value, atol=1e-12), key
                assert torch.equal(*ours), key
