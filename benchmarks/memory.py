"""Memory that a training step of PSPNet keeps between forward and backward pass, for each way to save memory.

    python benchmarks/memory.py
    python benchmarks/memory.py --backbone resnet101_v1s
    python benchmarks/memory.py --device cuda    # real steps: the peak that the allocator saw

Counted on fake tensors with saved-tensor hooks: bytes of distinct storages, parameters and buffers aside. Network
only; the two cross-entropy terms keep 0.31 GiB more at the default size in every case.
"""

import argparse

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from segdistill.network import build_network
from segdistill.network.cost import SavedBytes

PLACEMENTS = {
    "BatchNorm + ReLU": {},
    "in-place ABN, placed as in the originals": {"norm": "inplace_abn"},
    "in-place ABN, leaky ReLU throughout": {"norm": "inplace_abn", "activation": "leaky_relu"},
}


def saved_bytes(network: nn.Module, images: Tensor) -> int:
    """Bytes that both logits of ``images`` keep for the backward pass. Meta and fake tensors will do."""
    with SavedBytes(network) as saved:
        network(images, {"aux_logits"})
    return saved.total


def count(backbone: str, shape: tuple[int, ...], bfloat16: bool, **options) -> int:
    with FakeTensorMode():
        network = build_network("pspnet", 19, backbone=backbone, **options).train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            return saved_bytes(network, torch.empty(shape))


def measure_peak(backbone: str, shape: tuple[int, ...], bfloat16: bool, **options) -> int:
    """Peak bytes that a forward and backward pass on the GPU adds to weights, gradients and images."""
    network = build_network("pspnet", 19, backbone=backbone, **options)
    network = network.to("cuda", memory_format=torch.channels_last).train()
    images = torch.randn(shape, device="cuda").contiguous(memory_format=torch.channels_last)
    for _ in range(2):  # the first step allocates the gradients
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=bfloat16):
            output = network(images, {"aux_logits"})
        (output.logits.float().sum() + output.features["aux_logits"].float().sum()).backward()
        del output
    return torch.cuda.max_memory_allocated() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet18_v1s")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--device", choices=["fake", "cuda"], default="fake")
    arguments = parser.parse_args()
    shape = (arguments.batch_size, 3, arguments.size, arguments.size)
    figure = measure_peak if arguments.device == "cuda" else count

    print(f"PSPNet-{arguments.backbone}, {'x'.join(map(str, shape))}, GiB and share of BatchNorm + ReLU in float32")
    print(f"{'':42}{'float32':>14}{'bfloat16':>14}{'+ checkpoint':>14}{'both':>14}")
    reference = figure(arguments.backbone, shape, False)
    for name, options in PLACEMENTS.items():
        row = f"{name:42}"
        for bfloat16, checkpoint_blocks in ((False, False), (True, False), (False, True), (True, True)):
            size = figure(arguments.backbone, shape, bfloat16, checkpoint_blocks=checkpoint_blocks, **options)
            row += f"{size / 2**30:8.2f} {size / reference:4.0%} "
        print(row)


if __name__ == "__main__":
    main()
