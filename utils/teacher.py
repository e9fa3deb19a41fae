"""The teacher: a frozen network whose outputs the distillation losses read."""

import logging
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from segdistill.dataset import Normalization, SegmentationDataset
from segdistill.dataset.base import evenly_spaced
from segdistill.dataset.normalization import CONVENTIONS, IMAGENET
from segdistill.network import SegmentationNetwork, SegmentationOutput, build_network, network_class, resize
from segdistill.network.external.program import has_program
from segdistill.network.settings import settings_of
from segdistill.network.weights.checkpoint import LoadReport, describe, load_network
from segdistill.utils.batch import Batch
from segdistill.utils.classes import ClassMap, MappedNetwork, match_classes
from segdistill.utils.compile import Compiled
from segdistill.utils.evaluate import evaluate
from segdistill.utils.precision import autocast
from segdistill.utils.predict import Predictor, whole
from segdistill.utils.tasks import build_protocol, task_of

logger = logging.getLogger(__name__)

# Gain of another input convention that gives a warning, and that is an error.
NOTED, REFUSED = 0.02, 0.1


@dataclass(frozen=True)
class Inference:
    """Options of the teacher's forward pass.

    scale: resizing factor of the input images; None for the file's, or 1.
    stride: finer maps are resized to this stride, aligned corners; None: no resizing.
    precision: "float32", or "bf16" or "fp16" autocast, whatever the student's.
    compiled: by torch.compile, with the weights as constants: BatchNorm is folded into the convolutions.
    """

    device: torch.device | str = "cpu"
    memory_format: torch.memory_format = torch.contiguous_format
    scale: float | None = None
    stride: int | None = None
    precision: str = "float32"
    compiled: bool = False


class Teacher(nn.Module):
    """A frozen network with its own input convention, image size and classes.

    It has no gradient, stays in eval mode after ``train()``, and exposes no parameters, buffers or submodules, so no
    optimizer, DistributedDataParallel or checkpoint contains it.

    Args:
        network: any segmentation network; moved to the device.
        normalization: the input convention that the network was trained with.
        student_normalization: that of its input batches.
        class_map: from its classes to the student's; None: none.
        report: of its weights; None of an untrained one.
        source: its file or name, for errors.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        normalization: Normalization,
        student_normalization: Normalization,
        inference: Inference = Inference(),
        class_map: ClassMap | None = None,
        report: LoadReport | None = None,
        source: str | None = None,
    ):
        super().__init__()
        if class_map and not class_map.is_identity:
            network = MappedNetwork(network, class_map)
        network = network.to(inference.device, memory_format=inference.memory_format).eval().requires_grad_(False)
        self._hidden = (network,)  # a tuple, so that nn.Module does not register it
        self.inference = replace(inference, scale=inference.scale or 1.0)
        self.extract = (
            Compiled(network.extract, "the teacher", options={"freezing": True})
            if inference.compiled
            else network.extract
        )
        self.normalization, self.student_normalization = normalization, student_normalization
        self.class_map, self.report, self.source = class_map, report, source

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike, student_normalization: Normalization, **options) -> "Teacher":
        """The network that a file describes. ``options``: of ``from_report``.

        Raises: as ``segdistill.network.load_network`` and ``from_report``.
        """
        network, report = load_network(path)
        return cls.from_report(network, report, str(path), student_normalization, **options)

    @classmethod
    def from_network(
        cls,
        name: str,
        student_normalization: Normalization,
        path: str | os.PathLike | None = None,
        num_classes: int | None = None,
        settings: Mapping[str, object] | None = None,
        untrained: bool = False,
        **options,
    ) -> "Teacher":
        """A network by name, with the weights that its library publishes or those of a file: see ``load_teacher``.

        Args:
            options: of ``from_report``.

        Raises: as ``load_teacher`` and ``from_report``.
        """
        network, report = load_teacher(name, path, num_classes, settings, untrained)
        return cls.from_report(network, report, name if path is None else str(path), student_normalization, **options)

    @classmethod
    def from_report(
        cls,
        network: SegmentationNetwork,
        report: LoadReport | None,
        source: str,
        student_normalization: Normalization,
        dataset: SegmentationDataset | None = None,
        class_map: str | os.PathLike | None = None,
        normalization: Normalization | None = None,
        inference: Inference = Inference(),
    ) -> "Teacher":
        """A loaded network, mapped to the classes of a data set.

        Args:
            report: of its weights; None of an untrained one, which takes the student's convention.
            dataset: the student's, for its classes and image size; None: the teacher's.
            class_map: a file that maps the teacher's classes, see ``segdistill.utils.classes``.
            normalization: the input convention, if the report has none or a wrong one.

        Raises: as ``segdistill.utils.classes.match_classes``, and ValueError for a network without classes and with an
            unknown input convention, since no score would show a wrong one, or with a class map.
        """
        owner = f"teacher {source}"
        mapped = None
        if class_map and not network.num_classes:
            raise ValueError(f"--class-map {class_map} has no effect with {owner}, which has no classes")
        if dataset is not None and network.num_classes:
            mapped = match_classes(network, report, owner, dataset, class_map)
        if report is None:
            normalization = normalization or student_normalization
        normalization = normalization or report.normalization
        if normalization is None:
            unknown = f"{owner} does not say its input convention (--teacher-normalization {'|'.join(CONVENTIONS)})"
            if not network.num_classes:
                raise ValueError(unknown)
            logger.warning("%s: ImageNet's mean and std are assumed", unknown)
            normalization = IMAGENET
        if inference.scale is None and dataset is not None:
            inference = replace(inference, scale=own_scale(report, dataset))
        return cls(network, normalization, student_normalization, inference, mapped, report, source)

    @property
    def network(self) -> SegmentationNetwork:
        return self._hidden[0]

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: Batch, features: Iterable[str]) -> SegmentationOutput:
        """The named features of a batch in the student's convention; logits only if they are among them.

        Raises:
            ValueError: a feature that the network does not have.
        """
        shown = batch.images if batch.shown is None else batch.shown
        images = self.student_normalization.convert(shown, self.normalization)
        images = self.rescale(images).contiguous(memory_format=self.inference.memory_format)
        with autocast(images.device.type, self.inference.precision):
            output = self.extract(images, frozenset(features))
        return self.coarsen(output, batch.images.shape[2:]) if self.inference.stride else output

    def coarsen(self, output: SegmentationOutput, size: torch.Size) -> SegmentationOutput:
        """Resize maps finer than ``inference.stride`` to that stride; ``size`` (H, W) is the images'."""
        limit = [-(-side // self.inference.stride) for side in size]
        features = {
            name: resize(x, [min(side, most) for side, most in zip(x.shape[2:], limit, strict=True)])
            for name, x in output.features.items()
        }
        return SegmentationOutput(features.get("logits"), features)

    def rescale(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) resized by the teacher's scale."""
        scale = self.inference.scale
        if scale == 1:
            return images
        size = [max(round(side * scale), 1) for side in images.shape[2:]]
        return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)

    def verify(self, dataset: SegmentationDataset, num_images: int = 8, features: Iterable[str] | None = None) -> dict:
        """Measure the teacher on evenly spaced labelled images before it is used.

        A network without the task's feature map is checked by ``verify_features``, in ``features``.

        Returns:
            What ``teacher.json`` holds: file, network, family, sha256, num_classes, class_map, normalization, scale,
            stride, precision, num_images and the task's primary figure (None if it cannot be scored).

        Raises:
            ValueError: the classes are not the data set's, no image has a label, another common input convention scores
                far better, or the teacher does no better than the best constant prediction; features that
                ``verify_features`` refuses.
        """
        task = task_of(dataset)
        if task.feature not in self.network.features:
            return self.verify_features(dataset, features)
        if self.class_map is None and self.network.num_classes:
            match_classes(self.network, self.report, f"teacher {self.source}", dataset)
        indices = evenly_spaced(num_images, len(dataset))
        num_images = len(indices)
        predictor = Predictor(partial(self._coarse, task.feature))
        protocol = build_protocol(task, dataset, self.network, {})
        scores = evaluate(predictor, dataset, self.normalization, indices, protocol=protocol)
        primary, constant = task.primary, scores.best_constant()
        score = scores.figures()[primary.key]
        self._compare_conventions(predictor, dataset, indices, protocol, score, constant)
        if not primary.is_better(score, constant):
            raise ValueError(
                f"teacher {self.source} scores {primary.text(score)} {primary.name} on {num_images} images of the "
                f"{dataset.split} split, no better than a constant prediction ({primary.text(constant)}): is it "
                "trained, and for these labels?"
            )
        return self._describe(num_images, primary.key, score)

    def _compare_conventions(
        self,
        predictor: Predictor,
        dataset: SegmentationDataset,
        indices: list[int],
        protocol: Mapping,
        score: float,
        constant: float,
    ) -> None:
        """Warn or raise ValueError if the images in another common convention give a better ``score``."""
        primary = task_of(dataset).primary
        if primary.gain(score, float(primary.greater_is_better)) <= REFUSED:
            return  # not even a perfect score, 1 of a share and 0 of an error, is a large gain
        gains, scores = {}, {}
        for name, other in CONVENTIONS.items():
            if other != self.normalization:
                measured = evaluate(predictor, dataset, other, indices, protocol=protocol)
                scores[name] = measured.figures()[primary.key]
                gains[name] = primary.gain(score, scores[name])
        best = max(gains, key=gains.get)
        if gains[best] <= NOTED or not primary.is_better(scores[best], constant):
            return
        message = (
            f"teacher {self.source} scores {primary.text(score)} {primary.name} on {len(indices)} images with "
            f"its {self.normalization} and {primary.text(scores[best])} with {best}: --teacher-normalization {best} "
            "takes that"
        )
        if gains[best] > REFUSED:
            raise ValueError(message)
        logger.warning(message)

    @torch.no_grad()
    def measure_crops(self, dataset: SegmentationDataset, num_crops: int = 32) -> dict | None:
        """Score the teacher on evenly spaced labelled samples with the training augmentation of epoch 0.

        Never an error, and no random state changes.

        Args:
            dataset: the training split with its augmentation.

        Returns:
            num_crops and the scores of ``Task.measure``; None without labels, or without the task's feature map.
        """
        task = task_of(dataset)
        if task.feature not in self.network.features:
            return None
        labelled = [index for index, pair in enumerate(dataset.pairs) if pair.label]
        indices = [labelled[i] for i in evenly_spaced(num_crops, len(labelled))]
        samples = (dataset[index] for index in indices)
        maps = (
            (self._coarse(task.feature, self.normalization(sample.shown[None])), sample.label[None])
            for sample in samples
        )
        figures = task.measure(maps, dataset, build_protocol(task, dataset, self.network, {}))
        return figures and {"num_crops": len(indices), **figures}

    def _coarse(self, feature: str, images: Tensor) -> Tensor:
        """A feature map of images in the teacher's input convention, at the teacher's scale."""
        return whole(self.network, feature).coarse(self.rescale(images))

    @torch.no_grad()
    def predict(self, dataset: SegmentationDataset) -> list[Tensor]:
        """The prediction (H, W) for each image of a data set, with a progress bar; a warning if all are one value."""
        task, predictions = task_of(dataset), []
        for index in tqdm(range(len(dataset)), desc="asking the teacher", unit="image", leave=False, disable=None):
            image = dataset.read(index).image
            maps = self._coarse(task.feature, self.normalization(image[None]))
            predictions.append(task.read(maps, image.shape[1:])[0])
        values = torch.cat([prediction.unique() for prediction in predictions]).unique()
        if len(values) == 1:
            logger.warning(
                "teacher %s predicts %s all over %d images of %s: is it trained, and its input convention right "
                "(--teacher-normalization %s)?",
                *(self.source, values.item(), len(dataset), dataset.root, "|".join(CONVENTIONS)),
            )
        return predictions

    @torch.no_grad()
    def verify_features(self, dataset: SegmentationDataset, features: Iterable[str] | None = None) -> dict:
        """Check ``features`` (None: all) of two images of ``dataset``; needs no classes or labels.

        Returns: as ``verify``.

        Raises:
            ValueError: a feature is not finite, is the same for two images, or the same all over an image; or there
                are no two images.
        """
        if len(dataset) < 2:
            raise ValueError(f"teacher {self.source} has no classes: two images verify it, {dataset.root} has one")
        wanted = frozenset(self.network.features if features is None else features)
        device = next(self.network.parameters()).device
        outputs = []
        for index in (0, len(dataset) // 2):
            images = self.normalization(dataset.read(index).image[None]).to(device)
            outputs.append(self.network.extract(images, wanted).features)
        for name, first in outputs[0].items():
            first, second = first.double(), outputs[1][name].double()
            if not (first.isfinite().all() and second.isfinite().all()):
                raise ValueError(f"teacher {self.source}: its feature {name} is not finite")
            if torch.allclose(first.mean((2, 3)), second.mean((2, 3))):
                raise ValueError(f"teacher {self.source}: its feature {name} is the same for two images: untrained?")
            if torch.allclose(first, first.mean((2, 3), keepdim=True).expand_as(first)):
                raise ValueError(f"teacher {self.source}: its feature {name} is the same all over an image: untrained?")
        return self._describe(2, task_of(dataset).primary.key, None)

    def _describe(self, num_images: int, figure: str, score: float | None) -> dict:
        return {
            "file": self.source,
            "network": self.report.config["name"] if self.report else None,
            "family": self.report.family if self.report else None,
            "sha256": self.report.sha256 if self.report else None,
            "num_classes": self.network.num_classes,
            "class_map": self.class_map and self.class_map.targets,
            "normalization": astuple(self.normalization),
            "scale": self.inference.scale,
            "stride": self.inference.stride,
            "precision": self.inference.precision,
            "num_images": num_images,
            figure: score,
        }


def load_teacher(
    name: str | None,
    path: str | os.PathLike | None = None,
    num_classes: int | None = None,
    settings: Mapping[str, object] | None = None,
    untrained: bool = False,
) -> tuple[SegmentationNetwork, LoadReport | None]:
    """The network of a teacher and the report of its weights.

    Args:
        name, settings: as ``segdistill.network.build_network``; None: the network that the file describes.
        path: a file that describes the same network, or a plain state dict in its keys or its library's. None: the
            weights that the network's library publishes.
        num_classes: of the network, if the file does not have it or there is none.
        untrained: allow random weights, to check the terms against the network; they have no report.

    Raises: as ``build_network`` and ``segdistill.network.load_network``, and ValueError for a network that has neither
        a file nor published weights.
    """
    if name is None:
        return load_network(path)
    settings = dict(settings or {})
    if has_program(name):
        if path not in (None, name):
            raise ValueError(f"{name} has its weights: --T_ckpt_path {path} would have no effect")
        path = name
    if path is not None:
        settings.pop("pretrained", None)  # the file's weights replace the published ones
        known = {} if num_classes is None else {"num_classes": num_classes}
        return load_network(path, described={"name": name, **known, **settings})
    if "pretrained" in settings_of(network_class(name)):
        settings.setdefault("pretrained", True)
    if settings.get("pretrained"):
        network = build_network(name, None, **settings)
        return network, describe(network)
    if untrained:
        return build_network(name, num_classes, **settings), None
    raise ValueError(f"{name} without weights is untrained and teaches nothing: --T_ckpt_path names its file")


def own_scale(report: LoadReport | None, dataset: SegmentationDataset) -> float:
    """Size of the images that a network was trained on, over that of a data set's; 1 if unknown."""
    if report is None or not report.input_size:
        return 1.0
    height, width = dataset.read(0).image.shape[1:]
    return math.sqrt(math.prod(report.input_size) / (height * width))
