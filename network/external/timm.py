"""timm's backbones, without classes: ``timm:vit_small_patch14_dinov2.lvd142m``, ``timm:convnext_tiny``."""

import difflib

import timm
from torch import Tensor, nn

from segdistill.network.external.base import ExternalNetwork, convention, number_stages, quarters

# Keywords by which timm's transformers accept any image size; other networks have and need neither.
ANY_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


class TimmBackbone(ExternalNetwork):
    """``layer1`` ... ``layer4``: the last four stages, or a plain ViT's map after each quarter of its blocks.

    ``context``: layer4, or a ViT's patch tokens after its last norm. The image is resized to the
    nearest size that the model takes. There are no classes, whatever ``num_classes`` is.

    Args:
        pretrained: start from timm's published weights, true or false
        output_stride: 8 or 16 for dilated convolutions, where the backbone can; none: the model's own

    Raises:
        ValueError: no such model, or one that timm cannot take maps from.
    """

    num_classes = 0
    backbone_name = "model"

    def __init__(
        self, num_classes: int | None = 0, *, model: str, pretrained: bool = False, output_stride: int | None = None
    ):
        super().__init__()
        if not timm.is_model(model.split(".")[0]):
            like = difflib.get_close_matches(model, timm.list_models(), n=6, cutoff=0.3)
            raise ValueError(f"timm has no model {model!r}; it has {', '.join(like)} ...")
        settings = {} if output_stride is None else {"output_stride": output_stride}
        self.model = create(model, pretrained, settings)
        if not hasattr(self.model, "forward_intermediates"):
            raise ValueError(f"timm gives no maps of {model}: it has no forward_intermediates")
        data = timm.data.resolve_model_data_config(self.model)
        self.normalization = convention("RGB", data["mean"], data["std"])
        self.rebuild = settings
        strides = [stage["reduction"] for stage in list(self.model.feature_info)]
        self.is_plain = len(strides) > 1 and len(set(strides)) == 1
        depth = len(strides)
        self.stages = quarters(depth) if self.is_plain else number_stages(list(range(depth)))
        names = [*self.stages, "context"]
        self.settle(f"timm:{model}", names, max(data["input_size"]), strides[0] if self.is_plain else 1)

    def library_maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        last, stages = self.model.forward_intermediates(images, indices=list(self.stages.values()), output_fmt="NCHW")
        maps = dict(zip(self.stages, stages, strict=True))
        if self.is_plain:
            tokens = last[:, self.model.num_prefix_tokens :]
            return maps | {"context": tokens.mT.unflatten(2, stages[-1].shape[2:])}
        return maps | {"context": maps["layer4"]}


def create(model: str, pretrained: bool, settings: dict) -> nn.Module:
    """timm's model without its classifier, for any image size if the model supports it."""
    for any_size in ANY_SIZE:
        try:
            return timm.create_model(model, pretrained=pretrained, num_classes=0, **any_size, **settings)
        except TypeError as error:
            reason = error
        except RuntimeError as error:  # an unknown tag after the dot, weights that were never published
            raise ValueError(f"timm cannot build {model} (pretrained {pretrained}, {settings}): {error}") from error
    raise ValueError(f"timm cannot build {model} with {settings}: {reason}")
