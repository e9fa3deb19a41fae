"""Maps among the hidden states of a transformers model: tokens or maps, with or without other tokens before them."""

import inspect
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from segdistill.network.external.base import STAGES, blank, number_stages, outputs_of, try_out, watch

# More tokens than these before the patches, and a state is no map.
MOST_PREFIX_TOKENS = 64


class Layout(NamedTuple):
    """How a state holds its map. kind: "channels first", "channels last" or "tokens"; prefix: tokens that are no
    patches, before those that are; stride: of the map, of tokens alone."""

    kind: str
    prefix: int = 0
    stride: float = 1.0


class StateReader:
    """Maps of a model without a head, or with one for semantic segmentation.

    Attributes:
        stages: indices of the states layer1 ... layer4.
        multiple: of the sides of an image: the stride of a plain ViT, whose states have one size; else 1.
    """

    def __init__(self, model: nn.Module, num_classes: int, side: int, source: str):
        """side: of the square images that the model is made for. Raises: ValueError, no maps of such an image, or none
        of images at all."""
        if model.main_input_name != "pixel_values":
            raise ValueError(f"{source} reads {model.main_input_name}, not images")
        self.trunk = trunk_of(model) if num_classes else ""
        self.classifier = ""
        show_stages_before_they_shrink(model.get_submodule(self.trunk))

        def look(shadow: nn.Module, device: str) -> None:
            if num_classes:
                self.classifier = classifier_of(shadow, num_classes, blank((side, side), device))
            output, states = self._look_at(shadow, shadow.get_submodule(self.trunk), blank((side, side), device))
            self._read_layouts(output, states, side, getattr(shadow.config, "patch_size", None))

        try_out(model, look, side, source)

    def _read_layouts(self, output: ModelOutput, states: tuple[Tensor, ...], side: int, patch: object) -> None:
        self.layouts = [layout_of(state, side, patch) for state in states]
        # A state with as many channels as rows tells nothing; the others do.
        if any(layout.kind == "channels last" for layout in self.layouts):
            self.layouts = [layout._replace(kind="channels last") for layout in self.layouts]
        sizes = [
            as_map(state, layout, (side, side)).shape[2] for state, layout in zip(states, self.layouts, strict=True)
        ]
        last = {size: index for index, size in enumerate(sizes)}
        is_plain = len(last) == 1 and len(states) > 1
        self.multiple = round(side / sizes[-1]) if is_plain else 1
        self.last = None
        if self.classifier and "feature_maps" in output:
            self.stages = number_stages(list(range(len(states))))
        elif is_plain:
            self.stages = {name: (len(states) - 1) * part // 4 for part, name in enumerate(STAGES, 1)}
            last = output.get("last_hidden_state")
            self.last = None if last is None else layout_of(last, side, patch)
        else:
            self.stages = number_stages(list(last.values()))

    def maps(self, model: nn.Module, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        size = images.shape[2:]
        if self.classifier and wanted & {"context", "logits"}:
            with watch(model.get_submodule(self.classifier)) as maps:
                output, states = self._look_at(model, model, images)
        else:
            maps = {}
            output, states = self._look_at(model, model.get_submodule(self.trunk), images)
        maps |= {name: as_map(states[index], self.layouts[index], size) for name, index in self.stages.items()}
        if not self.classifier:
            maps["context"] = as_map(output.last_hidden_state, self.last, size) if self.last else maps["layer4"]
        return maps

    def _look_at(self, model: nn.Module, part: nn.Module, images: Tensor) -> tuple[ModelOutput, tuple[Tensor, ...]]:
        """Run ``part``, the model or its trunk: the trunk's output and its states."""
        trunk = model.get_submodule(self.trunk)
        # The map of a FocalNet's stage is in what the stage returns alone, before its downsampling.
        stages = trunk.encoder.stages if type(trunk).__name__ == "FocalNetModel" else []
        with outputs_of(trunk, *stages) as (outputs, *of_stages):
            self._run(part, images)
        found = tuple(results[-1][1] for results in of_stages)
        return outputs[-1], found or states_of(outputs[-1], has_head=bool(self.classifier))

    def _run(self, module: nn.Module, images: Tensor) -> ModelOutput:
        """The library's output with its hidden states; position embeddings are resized to the images."""
        known = inspect.signature(module.forward).parameters
        words = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in known else {}
        if module.config.model_type == "vit_mae":  # the order of its tokens is that of this noise
            count = (images.shape[2] // module.config.patch_size) * (images.shape[3] // module.config.patch_size)
            words["noise"] = torch.arange(count, device=images.device).float().expand(len(images), -1)
        return module(images, output_hidden_states=True, **words)


def trunk_of(model: nn.Module) -> str:
    """The name of the module below a head whose output has the hidden states."""
    return "backbone" if getattr(model, "backbone", None) is not None else model.base_model_prefix


def show_stages_before_they_shrink(trunk: nn.Module) -> None:
    """Let a Swin give each stage's map, not what the next stage makes of it, and take images smaller than its windows,
    padded as in the library's own backbone."""
    encoder, word = getattr(trunk, "encoder", None), "output_hidden_states_before_downsampling"
    known = inspect.signature(encoder.forward).parameters if encoder is not None else {}
    if word not in known or type(trunk).__name__ == "FocalNetModel":
        return

    def ask(module: nn.Module, given: tuple, words: dict) -> tuple[tuple, dict]:
        words = {**words, word: True}
        deepest = math.ceil(min(given[1]) / 2 ** (len(module.layers) - 1))
        if "always_partition" in known and deepest < module.config.window_size:
            words["always_partition"] = True
        return given, words

    encoder.register_forward_pre_hook(ask, with_kwargs=True)


def classifier_of(model: nn.Module, num_classes: int, images: Tensor) -> str:
    """The name of the convolution that makes the logits: the last that runs with a channel a class, auxiliary heads
    aside."""
    ran, handles = [], []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.out_channels == num_classes and "auxiliary" not in name:
            handles.append(layer.register_forward_hook(lambda *_, name=name: ran.append(name)))
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    if not ran:
        raise ValueError(f"{type(model).__name__} has no convolution that makes {num_classes} classes")
    return ran[-1]


def states_of(output: ModelOutput, has_head: bool) -> tuple[Tensor, ...]:
    """The feature maps that a head reads of its backbone, or else all hidden states."""
    names = ["reshaped_hidden_states", "hidden_states"]
    names.insert(0 if has_head else 2, "feature_maps")
    for name in names:
        if output.get(name):
            return tuple(output[name])
    raise ValueError(f"{type(output).__name__} has no hidden states")


def layout_of(state: Tensor, side: int, patch: object) -> Layout:
    """The layout of a state of an image of ``side`` squared, of a model with patches of ``patch`` if it says so."""
    if state.dim() == 4:
        is_last = state.shape[1] == state.shape[2] != state.shape[3]
        return Layout("channels last" if is_last else "channels first")
    if state.dim() != 3:
        raise ValueError(f"a hidden state of shape {tuple(state.shape)} is no map")
    length = state.shape[1]
    for grid in (side // patch if isinstance(patch, int) else 0, math.isqrt(length)):
        if grid and 0 <= length - grid**2 <= MOST_PREFIX_TOKENS:
            return Layout("tokens", length - grid**2, side / grid)
    raise ValueError(f"{length} tokens of an image of {side}x{side} are no map")


def as_map(state: Tensor, layout: Layout, size: Sequence[int]) -> Tensor:
    """A state of images of ``size`` (H, W) as a map (N, C, h, w)."""
    if layout.kind == "channels first":
        return state
    if layout.kind == "channels last":
        return state.permute(0, 3, 1, 2)
    for rounded in (math.floor, math.ceil):
        grid = tuple(rounded(side / layout.stride) for side in size)
        if grid[0] * grid[1] == state.shape[1] - layout.prefix:
            return state[:, layout.prefix :].mT.unflatten(2, grid)
    raise ValueError(f"{state.shape[1]} tokens of an image of {tuple(size)} are no map of stride {layout.stride:g}")
