"""Loads a checkpoint as a predictor for a data set; used by eval.py, test.py and the report."""

import argparse
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segdistill.dataset import SegmentationDataset
from segdistill.network import (
    HIDDEN,
    LoadReport,
    SegmentationNetwork,
    build_network,
    load_network,
    network_class,
)
from segdistill.network.base import CLASS_FEATURES
from segdistill.network.export import is_exported
from segdistill.network.export.base import ForeignFile
from segdistill.network.export.network import load_exported
from segdistill.network.external import LIBRARIES
from segdistill.network.external.program import runs_code
from segdistill.network.settings import parse_settings
from segdistill.network.weights.checkpoint import describe
from segdistill.utils.classes import MappedNetwork, match_classes
from segdistill.utils.predict import Predictor
from segdistill.utils.protocol import WHOLE_IMAGES, build_predictor
from segdistill.utils.tasks import Task, task_of


class LoadedPredictor(NamedTuple):
    """A checkpoint that is ready to predict.

    predictor: of images in the weights' own input convention, ``report.normalization``. network: predicts the data
    set's classes; if its report says ``counts_void``, possibly with void as one more.
    """

    predictor: Predictor
    network: SegmentationNetwork
    report: LoadReport
    task: Task

    def predict(self, image: Tensor) -> np.ndarray:
        """The prediction (H, W) of one image (3, H, W) uint8 RGB; for segmentation class ids, uint8."""
        shown = image[None].to(next(self.network.parameters()).device)  # uint8, a quarter of what the network sees
        maps = self.predictor.coarse(self.report.normalization(shown))
        return self.task.read(maps, image.shape[1:])[0].numpy()


def load_predictor(
    file: str | os.PathLike,
    dataset: SegmentationDataset | type[SegmentationDataset],
    protocol: Mapping = WHOLE_IMAGES,
    class_map: str | os.PathLike | None = None,
    *,
    batch_size: int = 1,
    networks: Collection[str] = (),
    network_options: Sequence[str] = (),
    trusted: Collection[str] = (),
    device: torch.device | str = "cpu",
) -> LoadedPredictor:
    """Load a checkpoint, ours or released, to predict images as a protocol says.

    A release with void as its last class may predict void: id ``len(dataset.CLASSES)``, which is scored as an
    error, drawn black and encoded as void. The published scores of such files count it so. A class map leaves it out.

    Args:
        protocol: as ``protocol_of`` of ``segdistill.utils.protocol`` returns it.
        class_map: a file, see ``read_class_map`` of ``segdistill.utils.classes``.
        batch_size: tiles in a batch.
        networks, network_options, trusted: see ``load_required``.

    Raises: as ``load_required`` and ``segdistill.utils.classes.match_classes``.
    """
    network, report = load_required(file, networks, network_options, trusted)
    task = task_of(dataset)
    if class_map or task.feature in CLASS_FEATURES:
        classes = match_classes(network, report, str(file), dataset, class_map)
        if class_map or not (classes.is_identity or report.counts_void):
            network = MappedNetwork(network, classes)
    network = network.to(device, memory_format=torch.channels_last)
    predictor = build_predictor(network, protocol, report.input_size, batch_size, task.feature)
    return LoadedPredictor(predictor, network, report, task)


def load_required(
    file: str | os.PathLike,
    networks: Collection[str] = (),
    network_options: Sequence[str] = (),
    trusted: Collection[str] = (),
) -> tuple[SegmentationNetwork, LoadReport]:
    """Load a checkpoint that must hold one of ``networks``, if any are named.

    Args:
        file: a checkpoint, an exported file, or a network whose library publishes its weights, such as ``hf:ID``.
        networks: names; a FILE.py:CLASS among them is run. A single one is that of a plain state dict.
        network_options: ``key=value`` settings of the network that override the file's.
        trusted: further names of networks whose FILE.py:CLASS may be run, whatever the file holds.

    Raises: as ``segdistill.network.load_network``, and ValueError if the file holds another network.
    """
    if is_exported(file):
        if runs_code(str(file)) and str(file) not in map(str, [*networks, *trusted]):
            raise ValueError(f"{file} holds a program: name it by --network, too, to let its code run")
        with suppress(ForeignFile):  # a network that another program exported
            return load_exported(file)
    library, _, name = str(file).partition(":")
    if library in LIBRARIES and name:
        return published(str(file), network_options)
    described = None
    if len(networks) == 1:  # a plain state dict says nothing of its network
        (name,) = networks
        described = {"name": name, **parse_settings(network_class(name), network_options, name, HIDDEN)}
    network, report = load_network(file, options=network_options, described=described, trusted=[*networks, *trusted])
    if networks and report.config["name"] not in networks:
        raise ValueError(f"{file} holds a {report.config['name']}, not a {' or '.join(networks)}")
    return network, report


def published(name: str, options: Sequence[str]) -> tuple[SegmentationNetwork, LoadReport]:
    """A library's network with the weights that it publishes."""
    settings = parse_settings(network_class(name), options, name, HIDDEN)
    network = build_network(name, None, pretrained=True, **settings).eval()
    return network, describe(network)


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of eval.py and test.py about the network, besides its file."""
    group = parser.add_argument_group("network")
    group.add_argument("--network", nargs="+", default=[], metavar="NAME", help="required; a FILE.py:CLASS is run")
    group.add_argument(
        "--network-options", nargs="+", default=[], metavar="key=value", help="in place of the file's: output_stride=8"
    )
    group.add_argument("--class-map", metavar="FILE", help="'its class -> class of the data set' lines, or -> none")
    group.add_argument("--device", help="cuda if there is one, else cpu")
