"""torchvision's segmentation models: ``torchvision:deeplabv3_resnet50``, ``fcn_*``, ``lraspp_*``."""

import copy

import torch
import torchvision
from torch import Tensor, nn

from segdistill.network.external.base import (
    STAGES,
    USUAL_SIDE,
    ExternalNetwork,
    OnlyShapes,
    convention,
    number_stages,
    watch,
)


class TorchvisionNetwork(ExternalNetwork):
    """Keys of the state dict are torchvision's; the logits are its logits before they are upsampled.

    ``layer1`` ... ``layer4`` are those of the ResNet; of a MobileNet the last map at each of its last four strides.

    Args:
        num_classes: of the logits; None takes those of the published weights.
        pretrained: start from torchvision's published weights, true or false; another class count leaves the
            classifiers untrained
        aux_loss: build the auxiliary head, where the model can have one, true or false

    Raises:
        ValueError: no such model.
    """

    def __init__(self, num_classes: int | None, *, model: str, pretrained: bool = False, aux_loss: bool = True):
        super().__init__()
        known = torchvision.models.list_models(module=torchvision.models.segmentation)
        if model not in known:
            raise ValueError(f"torchvision has no segmentation model {model!r}; known: {', '.join(known)}")
        weights = torchvision.models.get_model_weights(model).DEFAULT
        self.num_classes = len(weights.meta["categories"]) if num_classes is None else num_classes
        transform = weights.transforms()
        self.normalization = convention("RGB", transform.mean, transform.std)
        settings = {} if model.startswith("lraspp") else {"aux_loss": aux_loss}
        built = torchvision.models.get_model(
            model, weights=None, weights_backbone=None, num_classes=self.num_classes, **settings
        )
        if pretrained:
            own, given = built.state_dict(), weights.get_state_dict(progress=True, check_hash=True)
            # What is left out: another class count's last layers, and the auxiliary head if it is not built.
            built.load_state_dict(
                {key: value for key, value in given.items() if key in own and value.shape == own[key].shape},
                strict=False,
            )
            if self.num_classes == len(weights.meta["categories"]):
                self.classes = tuple(weights.meta["categories"])
        self.backbone, self.classifier = built.backbone, built.classifier
        self.aux_classifier = getattr(built, "aux_classifier", None)
        self.rebuild = settings
        self.stages = {name: name for name in STAGES} if "layer4" in self.backbone else self._stages_by_stride()
        names = [*self.stages.values(), "context", "logits", *(["aux_logits"] if self.aux_classifier else [])]
        self.settle(f"torchvision:{model}", names, USUAL_SIDE)

    def _stages_by_stride(self) -> dict[str, str]:
        """The backbone's last child at each stride."""
        last, x = {}, torch.empty(1, 3, 256, 256, device="meta")
        with torch.no_grad(), OnlyShapes():
            for name, child in copy.deepcopy(self.backbone).to("meta").eval().items():
                x = child(x)
                last[x.shape[2]] = name
        return {child: stage for stage, child in number_stages(list(last.values())).items()}

    def library_maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        maps, read, x = {}, {}, images
        for name, child in self.backbone.items():
            x = child(x)
            if name in self.stages:
                maps[self.stages[name]] = x
            if name in self.backbone.return_layers:
                read[self.backbone.return_layers[name]] = x
        if "aux_logits" in wanted:
            maps["aux_logits"] = self.aux_classifier(read["aux"])
        if wanted & {"context", "logits"}:
            maps |= self._classify(read)
        return maps

    def _classify(self, read: dict[str, Tensor]) -> dict[str, Tensor]:
        if isinstance(self.classifier, nn.Sequential):
            with watch(self.classifier[-1]) as seen:
                self.classifier(read["out"])
            return seen
        with watch(self.classifier.high_classifier) as seen:  # LR-ASPP adds the logits of two maps
            logits = self.classifier(read)
        return {"context": seen["context"], "logits": logits}
