"""Universal segmentation of transformers, which answers with queries: Mask2Former, MaskFormer, OneFormer, EoMT ...

A query q has class logits c_q, the last of them for "no object", and a mask m_q of logits. The score of a class at a
pixel is that of MaskFormer's semantic inference (Cheng et al., NeurIPS 2021, section 3.4),

    s_k = sum_q softmax(c_q)_k sigmoid(m_q),

with "no object" left out after the softmax. Scores are resized as the library's post_process_semantic_segmentation
does; the logits are log s at the size of the image, so their softmax is s_k / sum_j s_j.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.utils import ModelOutput

from segdistill.network.base import resize
from segdistill.network.external.base import number_stages, outputs_of, quarters

# "the task is semantic" in CLIP's vocabulary, the text encoder of every published OneFormer.
SEMANTIC_TASK = (49406, 518, 10549, 533, 29119, 1550, 49407)
# Below any score that counts; log 0 would be infinite, which interpolates to NaN.
LEAST_SCORE = 1e-12


class Family(NamedTuple):
    """Where a family's maps are made: its backbone and the module whose output is ``context``, the per-pixel embedding.

    mask_size: to which the library resizes every mask before its sigmoid; None: it does not.
    """

    backbone: str
    context: str
    mask_size: int | None = None


FAMILIES = {
    "detr": Family("detr.model.backbone", "detr.model.input_projection"),
    "mask2former": Family("model.pixel_level_module.encoder", "model.pixel_level_module", mask_size=384),
    "maskformer": Family("model.pixel_level_module.encoder", "model.pixel_level_module"),
    "oneformer": Family("model.pixel_level_module.encoder", "model.pixel_level_module"),
}
# Plain ViTs with queries among the tokens; they take square images of one size alone.
ENCODER_ONLY = ("eomt", "eomt_dinov3", "videomt")


class PixelDecoderReader:
    """Maps of a model with a backbone, a pixel decoder and queries.

    ``layer1`` ... ``layer4``: the backbone's stages; ``context``: the pixel decoder's per-pixel embedding (DETR: what
    its transformer reads).
    """

    multiple = 1

    def __init__(self, model: nn.Module, settings: Mapping):
        config = model.config
        self.family = FAMILIES[config.model_type]
        self.trunk = self.family.backbone
        backbone = model.get_submodule(self.trunk)
        channels = backbone.intermediate_channel_sizes if config.model_type == "detr" else backbone.channels
        self.stages = list(number_stages(channels))
        self.task = None
        if config.model_type == "oneformer":
            task = list(settings.get("task", SEMANTIC_TASK))[: config.task_seq_len]
            self.task = torch.tensor([task + [0] * (config.task_seq_len - len(task))], device="cpu")

    def maps(self, model: nn.Module, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        backbone = model.get_submodule(self.family.backbone)
        with outputs_of(backbone, model.get_submodule(self.family.context)) as (stages, context):
            if wanted & {"logits", "context"}:
                task = () if self.task is None else (self.task.expand(len(images), -1).to(images.device),)
                output = model(images, *task)
            elif model.config.model_type == "detr":
                backbone(images, torch.ones_like(images[:, 0]))
            else:
                backbone(images)
        maps = number_stages(
            [stage[0] for stage in stages[0]] if isinstance(stages[0], list) else stages[0].feature_maps
        )
        if wanted & {"logits", "context"}:
            maps["context"] = embedding_of(context[0])
        if "logits" in wanted:
            classes, masks = queries_of(output)
            if self.family.mask_size:
                masks = bilinear(masks, (self.family.mask_size,) * 2)
            maps["logits"] = log_scores(class_scores(classes, masks), images.shape[2:])
        return maps


class EncoderOnlyReader:
    """Maps of EoMT (Kerssies et al., CVPR 2025), and of VidEoMT on single images.

    The model takes square images of one size. Larger ones are cut into windows along their longer side, unless the
    image processor beside the model is one for whole images (``do_split_image`` false): then they are resized.

    ``layer1`` ... ``layer4``: the patch tokens after each quarter of the blocks; ``context``: the per-pixel embedding
    that the masks are products with.
    """

    multiple = 1  # windows and whole images are resized here
    trunk = ""

    def __init__(self, config: PretrainedConfig, settings: Mapping):
        self.side, self.patch = config.image_size, config.patch_size
        self.is_video = config.model_type == "videomt"
        self.splits = settings.get("do_split_image", not self.is_video)
        self.stages = quarters(config.num_hidden_layers)

    def maps(self, model: nn.Module, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        size = images.shape[2:]
        windows = Windows(size if self.splits else (self.side, self.side), self.side)
        maps = self.maps_of_squares(model, windows.cut(images))
        scores = windows.join(maps.pop("logits"))
        for name, value in maps.items():
            stride = self.side / value.shape[2]
            maps[name] = bilinear(windows.join(value), [max(1, round(side / stride)) for side in size])
        return maps | ({"logits": log_scores(scores, size)} if "logits" in wanted else {})

    def maps_of_squares(self, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """The maps of images of the model's size; "logits" are scores."""
        layers = [model.layers[index] for index in self.stages.values()]
        with outputs_of(*layers, model.upscale_block) as (*tokens, embedded):
            classes, masks = queries_of(model(images[:, None] if self.is_video else images))
        grid = (self.side // self.patch,) * 2
        maps = {
            name: state[0][:, -grid[0] * grid[1] :].mT.unflatten(2, grid)
            for name, state in zip(self.stages, tokens, strict=True)
        }
        masks = masks if self.is_video else bilinear(masks, (self.side, self.side))
        return maps | {"context": embedded[-1], "logits": class_scores(classes, masks)}


class Windows:
    """Square windows along the longer side of images whose shorter side is that of the windows, as EoMT is run."""

    def __init__(self, size: Sequence[int], side: int):
        """size: height and width of the images."""
        self.shown = scaled_to(size, side)
        self.side, self.is_high = side, size[0] > size[1]
        length = max(self.shown)
        count = math.ceil(length / side)
        overlap = (count * side - length) / (count - 1) if count > 1 else 0
        self.starts = [int(index * (side - overlap)) for index in range(count)]

    def cut(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) as windows (count * N, 3, side, side)."""
        images = F.interpolate(images, self.shown, mode="bilinear", align_corners=False, antialias=True)
        return torch.cat([images.narrow(2 if self.is_high else 3, start, self.side) for start in self.starts])

    def join(self, maps: Tensor) -> Tensor:
        """Maps (count * N, C, h, h) of windows as maps of the images; where windows overlap, their mean."""
        stride = self.side / maps.shape[2]
        size = [round(side / stride) for side in self.shown]
        total = maps.new_zeros(len(maps) // len(self.starts), maps.shape[1], *size)
        count = maps.new_zeros(1, 1, *size)
        axis = 2 if self.is_high else 3
        for start, window in zip(self.starts, maps.chunk(len(self.starts)), strict=True):
            start = min(round(start / stride), size[axis - 2] - maps.shape[2])
            total.narrow(axis, start, maps.shape[2]).add_(window)
            count.narrow(axis, start, maps.shape[2]).add_(1)
        return total / count


def scaled_to(size: Sequence[int], side: int) -> tuple[int, int]:
    """Height and width with the shorter side at ``side``, the longer one cut to a whole pixel."""
    least = min(size)
    return tuple(side if length == least else int(side * length / least) for length in size)


def class_scores(classes: Tensor, masks: Tensor) -> Tensor:
    """Scores (N, K, h, w) of class logits (N, Q, K + 1), the last for "no object", and mask logits (N, Q, h, w)."""
    with nullcontext() if classes.is_meta else torch.autocast(classes.device.type, enabled=False):
        return torch.einsum("nqk,nqhw->nkhw", classes.softmax(-1)[..., :-1], masks.sigmoid())


def log_scores(scores: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (N, K, H, W) at ``size`` of scores (N, K, h, w) >= 0."""
    return bilinear(scores, size).clamp_min(LEAST_SCORE).log()


def bilinear(maps: Tensor, size: Sequence[int]) -> Tensor:
    return resize(maps, tuple(size), align_corners=False)


def queries_of(output: ModelOutput) -> tuple[Tensor, Tensor]:
    """Class and mask logits of the last layer, in float32: half precision would tie classes."""
    if "pred_masks" in output:  # DETR's names
        return output.logits.float(), output.pred_masks.float()
    return output.class_queries_logits.float(), output.masks_queries_logits.float()


def embedding_of(output: ModelOutput | Tensor) -> Tensor:
    """The per-pixel embedding among a pixel decoder's outputs."""
    if isinstance(output, Tensor):
        return output
    return output.decoder_last_feature if "decoder_last_feature" in output else output.decoder_last_hidden_state


def universal_reader(model: nn.Module, settings: Mapping) -> PixelDecoderReader | EncoderOnlyReader:
    """The reader of a universal model's maps; ``settings``: what its files say of how it is run, ``task`` and
    ``do_split_image`` (``hf.settings_beside``).

    Raises:
        ValueError: a family that is not known here.
    """
    kind = model.config.model_type
    if kind in ENCODER_ONLY:
        return EncoderOnlyReader(model.config, settings)
    if kind in FAMILIES:
        return PixelDecoderReader(model, settings)
    raise ValueError(f"hf: {kind} is not known here; known: {', '.join(sorted([*ENCODER_ONLY, *FAMILIES]))}")
