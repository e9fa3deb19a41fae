"""Hugging Face transformers: ``hf:nvidia/segformer-b0-finetuned-cityscapes-1024-1024``, ``hf:facebook/dinov2-base``."""

import json
import re
from pathlib import Path

import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
    MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING,
)

from segdistill.dataset import Normalization
from segdistill.network.external.base import USUAL_SIDE, ExternalNetwork, convention
from segdistill.network.external.hf_depth import DepthReader, is_depth_model
from segdistill.network.external.hf_states import StateReader
from segdistill.network.external.hf_universal import universal_reader

# Position embeddings that are shifted and scaled at random in training; a run must be one that can be repeated.
RANDOM_POSITIONS = ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale")


# What the library raises for a config that fits no network, or for a package that a model needs besides.
BUILD_ERRORS = (ImportError, IndexError, KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError)


class HuggingFaceNetwork(ExternalNetwork):
    """A model of the hub, a local folder (config.json, weights) or a config's JSON file.

    A model of depth has a map ``depth`` (``hf_depth.py``).
    A model for semantic segmentation has classes, ``context`` (what its classifier reads) and logits that are not
    upsampled; one for universal segmentation has logits at the size of the image (``hf_universal.py``); any other has
    features only. ``layer1`` ... ``layer4``: the last map at each of its last four strides, or a plain ViT's map after
    each quarter of its blocks; ``context`` of a network without classes: its last hidden state, the patch tokens as a
    map. The image is resized to the nearest size that the model takes. The image processor next to the model has the
    input convention, the config's ``id2label`` the class names.

    Args:
        num_classes: of the logits; None takes the model's own. A network without a segmentation head has 0.
        pretrained: start from the published weights, true or false; another class count leaves the classifier
            untrained

    Raises:
        ValueError: a model without feature maps.
        OSError: no such model, or no connection to fetch it.
    """

    def __init__(
        self,
        num_classes: int | None,
        *,
        model: str,
        pretrained: bool = False,
        hf_config: dict | None = None,
        hf_processor: dict | None = None,
    ):
        super().__init__()
        config = repeatable(read_config(model, hf_config))
        is_depth = is_depth_model(config)
        if is_depth or num_classes is None:
            num_classes = 0 if is_depth or not has_head(config) else config.num_labels
        kind = kind_of(config) if num_classes else transformers.AutoModel
        kind = transformers.AutoModelForDepthEstimation if is_depth else kind
        self.num_classes = 0 if kind is transformers.AutoModel else num_classes
        if self.num_classes and num_classes != config.num_labels:
            config.num_labels = num_classes
        try:
            if pretrained:
                self.model = kind.from_pretrained(model, config=config, ignore_mismatched_sizes=True)
            else:
                self.model = kind.from_config(config)
        except BUILD_ERRORS as error:
            raise ValueError(f"hf:{model} cannot be built: {' '.join(str(error).split())}") from error
        if hf_config is None:  # else it is built again from a checkpoint, which has all three
            self.normalization = convention_of(model)
            self.classes = names_of(config) if self.num_classes else None
            hf_processor = settings_beside(model, config)
        self.model.float()  # published weights may be of half precision
        self.rebuild = {"hf_config": json.loads(config.to_json_string(use_diff=False))}
        self.rebuild |= {"hf_processor": hf_processor} if hf_processor else {}
        source, side = f"hf:{model}", side_of(self.model)
        if kind is transformers.AutoModelForUniversalSegmentation:
            self.reader = universal_reader(self.model, hf_processor or {})
        elif is_depth:
            self.reader = DepthReader(self.model, side, source)
            self.depth = self.reader.meaning.limits
        else:
            self.reader = StateReader(self.model, self.num_classes, side, source)
        self.backbone_name = f"model.{self.reader.trunk}".rstrip(".")
        names = [*self.reader.stages, "context", *(["logits"] if self.num_classes else [])]
        names += ["depth"] if is_depth else []
        self.settle(source, names, side, self.reader.multiple)

    def library_maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        return self.reader.maps(self.model, images, wanted)


def read_config(model: str, stored: dict | None) -> transformers.PretrainedConfig:
    """The configuration that a checkpoint stores, or that of a JSON file, a folder or a name of the hub."""
    if stored is None and not model.endswith(".json"):
        return transformers.AutoConfig.from_pretrained(model)
    if stored and re.search("hf[-_]hub:", json.dumps(stored)):  # timm's, inside of a wrapper
        raise ValueError(f"{model}: its config names a model that would have to be fetched")
    settings = dict(stored or json.loads(Path(model).read_text()))
    if "model_type" not in settings:
        raise ValueError(f"{model} is no configuration of Hugging Face: it names no model_type")
    try:
        return transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ValueError(f"{model} is no configuration of Hugging Face: {' '.join(str(error).split())}") from error


def repeatable(config: PretrainedConfig) -> PretrainedConfig:
    """The config of a network that computes the same twice, dropout aside, and of an inference alone."""
    for part in (config, getattr(config, "backbone_config", None)):
        for name in RANDOM_POSITIONS:
            if getattr(part, name, None) is not None:
                setattr(part, name, None)
    if config.model_type == "vit_mae":
        config.mask_ratio = 0.0
    if config.model_type == "oneformer":
        config.is_training = False  # else it reads texts of the labels
    return config


def kind_of(config: PretrainedConfig) -> type:
    """The library's class of models with a segmentation head, or without."""
    if type(config) in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
        return transformers.AutoModelForSemanticSegmentation
    if type(config) in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING:
        return transformers.AutoModelForUniversalSegmentation
    return transformers.AutoModel


def has_head(config: PretrainedConfig) -> bool:
    """Whether the published model has a segmentation head; a universal one that names no class of model has."""
    if config.architectures:
        return any(name.endswith("Segmentation") for name in config.architectures)
    return kind_of(config) is transformers.AutoModelForUniversalSegmentation


def side_of(model: nn.Module) -> int:
    """The side of the images that a model is made for."""
    config = model.config
    for part in (config, getattr(config, "backbone_config", None)):
        side = getattr(part, "image_size", None)
        if side:
            return side if isinstance(side, int) else max(side)
    published = getattr(getattr(model, "timm_model", None), "pretrained_cfg", {})
    return max(published.get("input_size", [USUAL_SIDE])[-2:])


def names_of(config: transformers.PretrainedConfig) -> tuple[str, ...] | None:
    """The names of a model's classes; None if they are the library's placeholders, LABEL_0 ..."""
    names = tuple(config.id2label.get(index, "") for index in range(config.num_labels))
    return names if all(names) and not any(re.fullmatch(r"LABEL_\d+", name) for name in names) else None


def processor_beside(model: str) -> dict | None:
    """The settings of the image processor next to a model or its config; None without one."""
    folder = str(Path(model).parent) if model.endswith(".json") else model
    try:
        return transformers.image_processing_utils.ImageProcessingMixin.get_image_processor_dict(folder)[0]
    except OSError:
        return None


def settings_beside(model: str, config: PretrainedConfig) -> dict:
    """What the files next to a universal model say of how it is run, plain data: ``do_split_image`` of EoMT, and
    ``task``, the tokens of "the task is semantic" of OneFormer; each only if it is there."""
    if config.model_type == "oneformer" and Path(model, "tokenizer_config.json").is_file():
        return {"task": transformers.AutoTokenizer.from_pretrained(model)("the task is semantic")["input_ids"]}
    given = processor_beside(model) or {}
    return {"do_split_image": bool(given["do_split_image"])} if "do_split_image" in given else {}


def convention_of(model: str) -> Normalization | None:
    """The input convention of the image processor next to a model or its config; None without one."""
    given = processor_beside(model)
    if given is None:
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
