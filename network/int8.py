"""Int8: a network whose convolutions round as 8-bit integers do, but in float, so that it can be trained and exported.

Input and output of a convolution are rounded to 256 levels of one range a map, its weights to 255 symmetric levels a
channel (Jacob et al., CVPR 2018; Krishnamoorthi, arXiv 1806.08342, sections 2 and 3). Gradients pass wherever nothing
was cut off (straight-through). What lies between the convolutions, BatchNorm too, stays in float and is not folded.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from segdistill.libs.text import shown
from segdistill.network.base import SegmentationNetwork

CUT = 1e-4  # of a map's values, at either end, lie beyond its range
TINY = torch.finfo(torch.float32).tiny
SCALES = ("input_scale", "input_zero", "output_scale", "output_zero", "weight_scale")  # of Int8Conv2d
TRIALS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)  # convolutions left in float
MOST_VALUES = 2**20  # of a map that are ranked
NUM_IMAGES = 16  # that ranges are calibrated on
FEW = 4  # images that a single convolution is tried on


class Int8Conv2d(nn.Conv2d):
    """A convolution that rounds as int8 does; made of an ``nn.Conv2d`` by ``to_int8``.

    Input and output have a step (``input_scale``) and a level of 0 (``input_zero``), which stay as they were
    calibrated. The steps of the weights, ``weight_scale``, (C,), follow them in training mode.
    ``rounds`` False: it computes in float for now.
    """

    rounds = True

    def forward(self, x: Tensor) -> Tensor:
        if not self.rounds:
            return super().forward(x)
        if self.training:
            self.weight_scale.copy_(step_of(self.weight))
        weight = rounded_channels(self.weight, self.weight_scale)
        y = self._conv_forward(rounded(x, self.input_scale, self.input_zero), weight, self.bias)
        return rounded(y, self.output_scale, self.output_zero)


def rounded(maps: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Maps at 256 levels: ``scale`` apart, 0 is at level ``zero`` (int32)."""
    if torch.compiler.is_exporting():
        return in_onnx(maps, scale, zero.to(torch.uint8))
    return torch.fake_quantize_per_tensor_affine(maps, scale, zero, 0, 255)


def rounded_channels(weight: Tensor, scale: Tensor) -> Tensor:
    """Weights (C, c, h, w) at multiples of their channel's ``scale`` (C,)."""
    zero = torch.zeros_like(scale, dtype=torch.int32)
    if torch.compiler.is_exporting():
        return in_onnx(weight, scale, zero.to(torch.int8), {"axis": 0})
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -128, 127)


def in_onnx(values: Tensor, scale: Tensor, zero: Tensor, attributes: Mapping[str, int] | None = None) -> Tensor:
    """The rounding as the operators that runtimes make integer arithmetic of; for ``torch.onnx.export`` alone."""
    settings = {"attrs": attributes, "shape": values.shape, "version": 19}
    levels = torch.onnx.ops.symbolic("QuantizeLinear", (values, scale, zero), dtype=zero.dtype, **settings)
    return torch.onnx.ops.symbolic("DequantizeLinear", (levels, scale, zero), dtype=values.dtype, **settings)


def to_int8(layer: nn.Conv2d) -> None:
    """Turn a convolution into an int8 one, in place; the steps of input and output are still to be set."""
    layer.__class__ = Int8Conv2d  # so that parameters, hooks and references to it stay
    for name in ("input", "output"):
        layer.register_buffer(f"{name}_scale", layer.weight.new_ones(()))
        layer.register_buffer(f"{name}_zero", layer.weight.new_zeros((), dtype=torch.int32))
    layer.register_buffer("weight_scale", step_of(layer.weight))


def to_float(layer: Int8Conv2d) -> None:
    """Undo ``to_int8``."""
    layer.__class__ = nn.Conv2d
    for name in SCALES:
        delattr(layer, name)


def step_of(weight: Tensor) -> Tensor:
    """The step (C,) of each channel of weights (C, c, h, w)."""
    return (weight.detach().abs().amax((1, 2, 3)) / 127).clamp(min=TINY)


def int8_layers(network: nn.Module) -> dict[str, Int8Conv2d]:
    """The int8 convolutions by name."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, Int8Conv2d)}


def float_layers(network: nn.Module) -> dict[str, nn.Conv2d]:
    """The other convolutions by name, but those of a class with an arithmetic of its own."""
    return {name: layer for name, layer in network.named_modules() if type(layer) is nn.Conv2d}


@torch.no_grad()
def calibrate(network: SegmentationNetwork, images: Iterable[Tensor]) -> None:
    """Turn every convolution that the logits depend on into int8. The network is in evaluation mode.

    Args:
        images: (1, 3, H, W) float, normalised. The range of a map is the widest of these images, in each of which the
            outermost 0.01 % of the values at either end lie beyond it.

    Raises:
        ValueError: the network is int8 already, or has no classes or no convolution.
    """
    if not network.num_classes:
        raise ValueError("int8 is measured by the classes of pixels, and the network has none")
    if int8_layers(network):
        raise ValueError("the network is int8 already")
    ranges: dict[nn.Conv2d, list[tuple[float, float]]] = {}

    def observe(layer, inputs, output):
        before = ranges.get(layer, [(0.0, 0.0)] * 2)  # 0, such as a padding, is within every range
        now = [range_of(inputs[0]), range_of(output)]
        ranges[layer] = [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(before, now, strict=True)]

    hooks = [layer.register_forward_hook(observe) for layer in float_layers(network).values()]
    try:
        for image in images:
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    if not ranges:
        raise ValueError("the network has no convolution (nn.Conv2d) that could compute in int8")
    for layer, found in ranges.items():
        to_int8(layer)
        for name, (low, high) in zip(("input", "output"), found, strict=True):
            step = max((high - low) / 255, TINY)
            getattr(layer, f"{name}_scale").fill_(step)
            getattr(layer, f"{name}_zero").fill_(round(-low / step))


def range_of(values: Tensor) -> tuple[float, float]:
    """Least and greatest value, but for the outermost at either end."""
    values = values.flatten().float()
    values = values[:: values.numel() // MOST_VALUES | 1]  # odd, so that it meets all columns
    rank = int(CUT * values.numel()) + 1
    return values.topk(rank, largest=False).values.max().item(), values.topk(rank).values.min().item()


@torch.no_grad()
def leave_in_float(network: SegmentationNetwork, images: Sequence[Tensor], keep: float) -> tuple[list[str], float]:
    """Turn the int8 convolutions that do most damage back: so few of them that the classes are kept.

    The damage of a convolution is the share of pixels that change their class while it alone is int8.

    Args:
        images: as ``calibrate``.
        keep: the share of their pixels that has to keep its class.

    Returns:
        The names of the convolutions that are in float now, and the share of pixels that keeps its class.

    Raises:
        ValueError: half of the convolutions in float do not suffice.
    """
    layers = int8_layers(network)

    def classes(rounding: Collection[str], images: Sequence[Tensor]) -> list[Tensor]:
        for name, layer in layers.items():
            layer.rounds = name in rounding
        return [network(image).logits.argmax(1) for image in images]

    def kept(rounding: Collection[str], images: Sequence[Tensor]) -> float:
        pairs = zip(classes(rounding, images), expected, strict=False)
        return torch.cat([(given == own).flatten() for given, own in pairs]).float().mean().item()

    expected = classes((), images)
    in_float, share = [], kept(layers, images)
    if share < keep:
        names = tqdm(layers, desc="int8", unit="layer", leave=False, disable=None)
        alone = {name: kept({name}, images[:FEW]) for name in names}
        order = sorted(layers, key=alone.get)
        for count in (count for count in TRIALS if count <= len(layers) // 2):
            in_float, share = order[:count], kept(order[count:], images)
            if share >= keep:
                break
        else:
            raise ValueError(
                f"int8 keeps the class of {share:.2%} of the pixels with {len(in_float)} of {len(layers)} convolutions "
                f"in float, less than {keep:.2%}: ask for less (--keep), or train for it (train.py --quantise int8)"
            )
    for name, layer in layers.items():
        del layer.rounds
        if name in in_float:
            to_float(layer)
    return sorted(in_float), share


def scales_of(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a network's state dict that its int8 convolutions have more than others."""
    return {key: value for key, value in state_dict.items() if key.rpartition(".")[2] in SCALES}


def restore(network: nn.Module, scales: Mapping[str, Tensor]) -> None:
    """Turn the convolutions that ``scales_of`` tells of into int8.

    Raises:
        ValueError: an entry that is missing, of another shape or type or out of range, or of no convolution.
    """
    layers = float_layers(network)
    for name in sorted({key.rpartition(".")[0] for key in scales}):
        if name not in layers:
            raise ValueError(f"it has int8 scales of {shown(name)}, which is no convolution of the network")
        to_int8(layers[name])
        for entry in SCALES:
            own, given = getattr(layers[name], entry), scales.get(f"{name}.{entry}")
            if given is None or given.shape != own.shape or given.dtype != own.dtype or not is_sound(given):
                raise ValueError(f"its int8 scale {name}.{entry} is missing or damaged")
            own.copy_(given)


def is_sound(scale: Tensor) -> bool:
    """Whether these can be steps (float), or levels of 0."""
    if scale.is_floating_point():
        return bool((scale.isfinite() & (scale > 0)).all())
    return bool(((scale >= 0) & (scale <= 255)).all())
