"""Cost of a network in parameters, MACs and memory, from shapes alone on the meta device."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segdistill.network.base import SegmentationNetwork, resize


class Cost(NamedTuple):
    """parameters: how many. macs: multiply-accumulates of the convolutions and matrix products that an image's logits
    take; an operation (FLOP) is half of one. activations: bytes an image that a training step keeps for its backward
    pass, in float32. strides and sizes: of each feature, the latter (C, h, w)."""

    parameters: int
    macs: int
    activations: int
    strides: Mapping[str, int]
    sizes: Mapping[str, tuple[int, int, int]]


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Context manager: counts the bytes that autograd keeps for the backward pass; works on meta tensors.

        with SavedBytes(network) as saved:
            output = network(images)
        print(saved.total)

    Tensors that share memory count once, the parameters and buffers of ``module`` not at all. No value changes.
    """

    def __init__(self, module: nn.Module):
        super().__init__(self._keep, lambda tensor: tensor)
        self._own = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
        self._kept = {}  # holds the storages, so that no address is used twice

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own:
            self._kept[storage._cdata] = storage
        return tensor

    def __enter__(self) -> "SavedBytes":
        super().__enter__()
        return self

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self.total = sum(storage.nbytes() for storage in self._kept.values())
        self._kept.clear()


class FusedAttention(torch.autograd.Function):
    """Shapes of fused attention, which keeps its inputs, its output and a value a query, but no weight matrix."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, length, _ = query.shape
        output = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)  # as the kernels lay it out
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1]))
        return output


class AttentionIsFused(TorchFunctionMode):
    """On the meta device attention is computed step by step; inside, it is what the kernels of other devices are."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        words = kwargs or {}
        if (
            function is F.scaled_dot_product_attention
            and not words.get("dropout_p")
            and len(args) == 3
            and args[0].dim() == 4
        ):
            return FusedAttention.apply(*args)
        return function(*args, **words)


def cost_of(network: SegmentationNetwork, size: tuple[int, int]) -> Cost:
    """The cost of a network on the meta device for images of ``size`` (H, W)."""
    macs = macs_of(network, size)
    with torch.no_grad():
        features = network(torch.empty(1, 3, *size, device="meta"), network.features).features
    return Cost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        macs=macs,
        activations=activations_of(network, size),
        strides={name: feature.stride for name, feature in network.features.items()},
        sizes={name: tuple(features[name].shape[1:]) for name in network.features},
    )


def macs_of(network: SegmentationNetwork, size: tuple[int, int]) -> int:
    """``Cost.macs`` of a network on the meta device for images of ``size`` (H, W)."""
    from torch.utils.flop_counter import FlopCounterMode  # slow to import

    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, *size, device="meta"))
    return counter.get_total_flops() // 2


def activations_of(network: SegmentationNetwork, size: tuple[int, int]) -> int:
    """Bytes an image that autograd keeps in a training step, for the network and cross-entropy on its logits.

    Counted as ``SavedBytes`` does.
    """
    batch = 2  # BatchNorm does not train on one value, as a pyramid's 1x1 bin has of one image
    network.train()
    labels = torch.empty(batch, *size, dtype=torch.long, device="meta")
    with SavedBytes(network) as saved, AttentionIsFused():
        output = network(
            torch.empty(batch, 3, *size, device="meta"), {"logits", "aux_logits"} & network.features.keys()
        )
        loss = sum(F.cross_entropy(resize(logits, size), labels) for logits in output.features.values())
    del loss
    network.eval()
    return saved.total // batch
