"""Hugging Face transformers: ``hf:nvidia/segformer-b0-finetuned-cityscapes-1024-1024``, ``hf:facebook/dinov2-base``."""

import copy
import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING

from segdistill.dataset import Normalization
from segdistill.network.base import SegmentationNetwork
from segdistill.network.external.base import STAGES, convention, measure, number_stages, resize_to_multiple, watch


class HuggingFaceNetwork(SegmentationNetwork):
    """A model of the hub, a local folder (config.json, weights) or a config's JSON file.

    A model for semantic segmentation has classes, ``context`` (what its classifier reads) and logits that are not
    upsampled; any other has features only. ``layer1`` ... ``layer4``: the last map at each of its last four
    strides, or a plain ViT's map after each quarter of its blocks; ``context`` of a network without classes: its last
    hidden state, the patch tokens as a map. For a network with a patch size the image is resized to the nearest
    multiple. The image processor next to the model has the input convention, the config's ``id2label`` the class names.

    Args:
        num_classes: of the logits; None takes the model's own. A network without a segmentation head has 0.
        pretrained: start from the published weights, true or false; another class count leaves the classifier
            untrained

    Raises:
        ValueError: a model without feature maps.
        OSError: no such model, or no connection to fetch it.
    """

    def __init__(self, num_classes: int | None, *, model: str, pretrained: bool = False, hf_config: dict | None = None):
        super().__init__()
        config = read_config(model, hf_config)
        has_head = any(name.endswith("ForSemanticSegmentation") for name in config.architectures or ())
        if num_classes is None:
            num_classes = config.num_labels if has_head else 0
        if num_classes and type(config) in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
            self.num_classes, kind = num_classes, transformers.AutoModelForSemanticSegmentation
            if num_classes != config.num_labels:
                config.num_labels = num_classes
        else:
            self.num_classes, kind = 0, transformers.AutoModel
        if pretrained:
            self.model = kind.from_pretrained(model, config=config, ignore_mismatched_sizes=True)
        else:
            self.model = kind.from_config(config)
        if hf_config is None:  # else it is built again from a checkpoint, which has both
            self.normalization = convention_of(model)
            self.classes = names_of(config) if self.num_classes else None
        self.backbone_name = f"model.{self.model.base_model_prefix}" if self.num_classes else "model"
        self.model.float()  # published weights may be of half precision
        if self.model.main_input_name != "pixel_values":
            raise ValueError(f"hf:{model} reads {self.model.main_input_name}, not images")
        self.rebuild = {"hf_config": json.loads(config.to_json_string(use_diff=False))}
        patch = getattr(config, "patch_size", 1)
        self.patch = patch if isinstance(patch, int) else max(patch)
        self.classifier = classifier_of(self.model, self.num_classes) if self.num_classes else ""
        side = -(-256 // self.patch) * self.patch
        self.stages, self.is_plain = find_stages(self.model, side, self.patch)
        names = [*self.stages, "context", *(["logits"] if self.num_classes else [])]
        self.features = measure(self, names, side)

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        images = resize_to_multiple(images, self.patch)
        grid = [side // self.patch for side in images.shape[2:]]
        if wanted & {"context", "logits"} and self.num_classes:
            with watch(self.model.get_submodule(self.classifier)) as maps:
                output = run(self.model, images)
        else:
            output, maps = run(self.model.base_model, images), {}
        states = hidden_states(output)
        maps |= {name: as_map(states[index], grid) for name, index in self.stages.items()}
        if not self.num_classes:
            maps["context"] = as_map(output.last_hidden_state, grid) if self.is_plain else maps["layer4"]
        return maps


def read_config(model: str, stored: dict | None) -> transformers.PretrainedConfig:
    """The configuration that a checkpoint stores, or that of a JSON file, a folder or a name of the hub."""
    if stored is None and not model.endswith(".json"):
        return transformers.AutoConfig.from_pretrained(model)
    settings = dict(stored or json.loads(Path(model).read_text()))
    if "model_type" not in settings:
        raise ValueError(f"{model} is no configuration of Hugging Face: it names no model_type")
    return transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)


def names_of(config: transformers.PretrainedConfig) -> tuple[str, ...] | None:
    """The names of a model's classes; None if they are the library's placeholders, LABEL_0 ..."""
    names = tuple(config.id2label.get(index, "") for index in range(config.num_labels))
    return names if all(names) and not any(re.fullmatch(r"LABEL_\d+", name) for name in names) else None


def convention_of(model: str) -> Normalization | None:
    """The input convention of the image processor next to a model or its config; None without one."""
    folder = str(Path(model).parent) if model.endswith(".json") else model
    try:
        given, _ = transformers.image_processing_utils.ImageProcessingMixin.get_image_processor_dict(folder)
    except OSError:
        return None
    kind = given.get("image_processor_type") or given.get("feature_extractor_type") or ""
    defaults = getattr(transformers, kind, None)

    def setting(name: str, default: object) -> object:
        return given[name] if name in given else getattr(defaults, name, None) or default

    channels = "BGR" if setting("do_flip_channel_order", False) else "RGB"
    factor = setting("rescale_factor", 1 / 255) if setting("do_rescale", True) else 1.0
    mean, std = setting("image_mean", None), setting("image_std", None)
    if not (mean and setting("do_normalize", "image_mean" in given)):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return convention(channels, mean, std, 255 * factor)


def classifier_of(model: nn.Module, num_classes: int) -> str:
    """The name of the convolution that makes the logits: the last with a channel a class, auxiliary heads aside."""
    names = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.out_channels == num_classes and "auxiliary" not in name
    ]
    if not names:
        raise ValueError(f"{type(model).__name__} has no convolution that makes {num_classes} classes")
    return names[-1]


def find_stages(model: nn.Module, side: int, patch: int) -> tuple[dict[str, int], bool]:
    """Indices of the hidden states layer1 ... layer4, and whether all have one size, as in a plain ViT."""
    output = run(copy.deepcopy(model).to("meta").eval(), torch.empty(1, 3, side, side, device="meta"))
    states = [as_map(state, [side // patch] * 2) for state in hidden_states(output)]
    last = {state.shape[2]: index for index, state in enumerate(states)}
    if len(last) > 1:
        return number_stages(list(last.values())), False
    return {name: (len(states) - 1) * quarter // 4 for quarter, name in enumerate(STAGES, 1)}, True


def run(model: nn.Module, images: Tensor) -> transformers.utils.ModelOutput:
    """The library's output with its hidden states; position embeddings are resized to the images."""
    known = inspect.signature(model.forward).parameters
    words = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in known else {}
    return model(images, output_hidden_states=True, **words)


def hidden_states(output: transformers.utils.ModelOutput) -> tuple[Tensor, ...]:
    return getattr(output, "reshaped_hidden_states", None) or output.hidden_states


def as_map(state: Tensor, grid: Sequence[int]) -> Tensor:
    """Convert tokens (N, L, C), patches last, to a map (N, C, h, w) of size ``grid``; a map is unchanged."""
    if state.dim() == 4:
        return state
    return state[:, -grid[0] * grid[1] :].mT.unflatten(2, tuple(grid))
