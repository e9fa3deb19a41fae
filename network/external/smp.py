"""segmentation_models_pytorch: ``smp:unet``, ``smp:fpn``, ``smp:deeplabv3plus`` ... with any of its encoders."""

import segmentation_models_pytorch as smp
import timm
from torch import Tensor

from segdistill.dataset import Normalization
from segdistill.network.external.base import USUAL_SIDE, ExternalNetwork, convention, number_stages, up_to


class SMPNetwork(ExternalNetwork):
    """``layer1`` ... ``layer4``: the encoder's last four stages; ``context``: the decoder's map; logits not upsampled.

    The input convention is that of the encoder's published weights, trained or not; it is unknown if it is only
    in a file to download and ``pretrained`` is false. If the library needs sides that are multiples of the encoder's
    stride, the image is resized to the nearest ones.

    Args:
        encoder_name: one of the library's encoders; tu-NAME for one of timm's
        pretrained: start the encoder from its ImageNet weights, true or false

    Raises:
        ValueError: no such architecture or encoder, or no class count.
    """

    backbone_name = "model.encoder"

    def __init__(
        self, num_classes: int | None, *, model: str, encoder_name: str = "resnet34", pretrained: bool = False
    ):
        super().__init__()
        known = sorted(smp.MODEL_ARCHITECTURES_MAPPING.keys() - {"dpt"})  # DPT's decoder reads tokens besides maps
        if model not in known:
            raise ValueError(f"smp has no architecture {model!r} that is known here; known: {', '.join(known)}")
        if not num_classes:
            raise ValueError(f"smp:{model} starts from ImageNet at most, so it has no classes of its own: give a file")
        try:
            self.model = smp.create_model(
                model, encoder_name, encoder_weights="imagenet" if pretrained else None, classes=num_classes
            )
        except (KeyError, RuntimeError) as error:  # what the library, and timm behind it, raise for a wrong name
            raise ValueError(f"smp:{model} encoder_name={encoder_name}: {error}") from error
        self.num_classes = num_classes
        multiple = self.model.encoder.output_stride if self.model.requires_divisible_input_shape else 1
        self.rebuild = {"encoder_name": encoder_name}
        if pretrained or encoder_name.startswith("tu-"):  # the others' is in a file that the library would fetch
            self.normalization = convention_of(encoder_name)
        # An encoder without a map at stride 2 has one of no channels there.
        stages = [name for name, width in number_stages(self.model.encoder.out_channels[1:]).items() if width]
        if model == "pan":
            self.MIN_SIDE = 8 * self.model.encoder.output_stride  # its pyramid halves the deepest map three times
        side = up_to(side_of(encoder_name), multiple)
        self.settle(f"smp:{model} encoder_name={encoder_name}", [*stages, "context", "logits"], side, multiple)

    def library_maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        stages = self.model.encoder(images)
        maps = number_stages(stages[1:])
        if wanted & {"context", "logits"}:
            maps["context"] = self.model.decoder(stages)
        if "logits" in wanted:
            maps["logits"] = self.model.segmentation_head[0](maps["context"])
        return maps


def side_of(encoder_name: str) -> int:
    """The side of the images that an encoder is made for: timm has some of one size alone."""
    published = timm.get_pretrained_cfg(encoder_name.removeprefix("tu-")) if encoder_name.startswith("tu-") else None
    return max(published.input_size) if published else USUAL_SIDE


def convention_of(encoder_name: str) -> Normalization | None:
    """The input convention of an encoder's published weights; None of one of timm's that has none."""
    if encoder_name.startswith("tu-") and not timm.is_model_pretrained(encoder_name.removeprefix("tu-")):
        return None
    given = smp.encoders.get_preprocessing_params(encoder_name)
    return convention(given["input_space"], given["mean"], given["std"], given["input_range"][1])
