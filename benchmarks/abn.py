"""In-place ABN against BatchNorm2d and an in-place leaky ReLU: time of forward and backward, interleaved in one run.

python benchmarks/abn.py                        # CPU, compiled kernels
SEGDISTILL_ABN=python python benchmarks/abn.py  # CPU, pure PyTorch
python benchmarks/abn.py --device cuda
"""

import argparse
import platform
import statistics
import time

import torch
from torch import Tensor, nn

from segdistill.libs import FALLBACK, InPlaceABN

SHAPES = [(8, 64, 128, 128), (8, 512, 33, 33)]
GPU_SHAPES = [*SHAPES, (8, 64, 256, 256), (8, 512, 65, 65)]


class Producer(torch.autograd.Function):
    """Makes the input of the layer: a new map without cost in the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone(memory_format=torch.preserve_format)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


def seconds(layer: nn.Module, source: Tensor, grad: Tensor) -> float:
    x = Producer.apply(source)
    synchronize(source.device)
    start = time.perf_counter()
    torch.autograd.grad(layer(x), [source, *layer.parameters()], grad)
    synchronize(source.device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def medians(shape: tuple[int, ...], layout: torch.memory_format, dtype: torch.dtype, device: str, repeats: int):
    """Milliseconds of BatchNorm2d + leaky ReLU and of in-place ABN."""
    options = {"device": device, "dtype": dtype}
    source, grad = (torch.randn(shape, **options).contiguous(memory_format=layout) for _ in range(2))
    source.requires_grad_()
    plain = nn.Sequential(nn.BatchNorm2d(shape[1]), nn.LeakyReLU(0.01, inplace=True)).to(device)
    ours = InPlaceABN(shape[1]).to(device)
    times = [(seconds(plain, source, grad), seconds(ours, source, grad)) for _ in range(repeats + 3)]
    return [1e3 * statistics.median(column) for column in zip(*times[3:], strict=True)]  # the first ones warm up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    on_gpu = arguments.device == "cuda"

    machine = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, {arguments.threads} threads"
    kernels = FALLBACK[arguments.device] or "compiled"
    print(f"torch {torch.__version__}, {machine}, kernels: {kernels}, median of {arguments.repeats}, milliseconds")
    print(f"{'map':18}{'layout':15}{'dtype':10}{'BatchNorm':>10}{'in-place':>10}{'ratio':>8}")
    for shape in GPU_SHAPES if on_gpu else SHAPES:
        for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
            for dtype in (torch.float32, torch.bfloat16):
                plain, ours = medians(shape, layout, dtype, arguments.device, arguments.repeats)
                row = f"{'x'.join(map(str, shape)):18}{name:15}{str(dtype)[6:]:10}"
                print(f"{row}{plain:10.2f}{ours:10.2f}{ours / plain:8.2f}")


if __name__ == "__main__":
    main()
