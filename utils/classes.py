"""Maps a network's classes to a data set's.

A class map merges classes in probability space. With K(c) the network's classes that become class c,

    p_c = sum_{k in K(c)} q_k / sum_{k in some K} q_k,    q = softmax(z),

so classes mapped to ``none`` are left out and the rest renormalised. As logits that is log sum_{k in K(c)} exp z_k: a
class that maps one to one keeps its logits as they are. A class with an empty K(c) is unknown to the network. It is
never predicted, and distillation terms on logits compare the known classes only: the student's logits of unknown
classes get no gradient from them.
"""

import difflib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from segdistill.dataset import DATASETS, SegmentationDataset
from segdistill.dataset.ids import bit_color
from segdistill.dataset.pairs import read_lines
from segdistill.network import LoadReport, SegmentationNetwork
from segdistill.network.base import CLASS_FEATURES

logger = logging.getLogger(__name__)

NONE, VOID = "none", "void"
# The logit of a class that the network does not know: softmax makes it 0, and it is finite in float16.
UNKNOWN = -1e4


class ClassMap(NamedTuple):
    """targets: for each class of the network the data set's class, or None; num_classes: of the data set."""

    targets: tuple[int | None, ...]
    num_classes: int

    @property
    def known(self) -> tuple[int, ...]:
        """The data set's classes that the network knows, in order."""
        return tuple(sorted(set(self.targets) - {None}))

    @property
    def is_identity(self) -> bool:
        return self.targets == tuple(range(self.num_classes))

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (N, len(targets), h, w) as logits (N, num_classes, h, w), -1e4 for unknown classes."""
        mapped = logits.new_full((len(logits), self.num_classes, *logits.shape[2:]), UNKNOWN)
        for target in self.known:
            sources = [source for source, other in enumerate(self.targets) if other == target]
            mapped[:, target] = logits[:, sources].logsumexp(1) if len(sources) > 1 else logits[:, sources[0]]
        return mapped


class MappedNetwork(SegmentationNetwork):
    """A network whose logits are mapped to the classes of another data set; all else is unchanged."""

    def __init__(self, network: SegmentationNetwork, class_map: ClassMap):
        super().__init__()
        self.network, self.class_map = network, class_map
        self.num_classes = class_map.num_classes
        self.known_classes = class_map.known if len(class_map.known) < self.num_classes else None
        self.features = {
            name: feature._replace(channels=class_map.num_classes) if name in CLASS_FEATURES else feature
            for name, feature in network.features.items()
        }

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        maps = self.network.maps(images, wanted)
        return {name: self.class_map(value) if name in CLASS_FEATURES else value for name, value in maps.items()}

    def norm_before(self, feature: str) -> torch.nn.BatchNorm2d:
        return self.network.norm_before(feature)

    def __getattr__(self, name: str) -> object:
        """Attributes that are not defined here are those of the wrapped network."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)


def match_classes(
    network: SegmentationNetwork,
    report: LoadReport | None,
    source: str,
    dataset: SegmentationDataset | type[SegmentationDataset],
    file: str | Path | None = None,
) -> ClassMap:
    """The map from a network's classes to a data set's.

    Args:
        report: of the network's file; None for a network without one.
        source: its name, for errors.
        file: a class map, see ``read_class_map``. Without it the classes must be the data set's, in any order if both
            are named, or those and void if the report says ``counts_void``.

    Raises:
        FileNotFoundError, ValueError: as ``read_class_map``, or classes that differ, with both lists.
    """
    classes = tuple(dataset.CLASSES)
    count = network.num_classes
    if not count:
        raise ValueError(f"{source} has no classes, so it predicts nothing")
    own = tuple(report.classes) if report and report.classes else ()
    names = own or usual_names(count, report)
    if file:
        return read_class_map(file, names or tuple(map(str, range(count))), classes)
    voids = 1 if report and report.counts_void else 0
    if own[: len(own) - voids] in ((), classes) and count == len(classes) + voids:
        return ClassMap((*range(len(classes)), *[None] * voids), len(classes))
    if targets := same_names(own, classes):
        if targets != tuple(range(count)):
            logger.info("%s has the classes in another order, %s: mapped by name", source, ", ".join(own))
        return ClassMap(targets, count)
    no_classes = f", or that they are no classes: {network.NO_CLASSES}" if network.NO_CLASSES else ""
    owner = dataset.__name__ if isinstance(dataset, type) else type(dataset).__name__
    raise ValueError(
        f"{source} has {count} classes, {owner} has {len(classes)}, and they are not the same: say with "
        f"--class-map FILE what each becomes (docs/methods.md){no_classes}\n"
        f"  {source}: {', '.join(names) or 'not named'}\n  {owner}: {', '.join(classes)}"
    )


def classes_and_colors(
    network: SegmentationNetwork, report: LoadReport | None
) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Names and colours of a network's classes: those of its weights or library, or of a data set with the same names;
    numbers and Pascal VOC's colours where they are unknown."""
    names = tuple((report and report.classes) or network.classes or ())
    known = (other.PALETTE for other in DATASETS.values() if names and tuple(other.CLASSES) == names)
    colors = (report and report.palette) or next(known, None)
    count = network.num_classes
    names = names or tuple(f"class {index}" for index in range(count))
    return names, colors or tuple(bit_color(index + 1) for index in range(count))


def same_names(sources: Sequence[str], targets: Sequence[str]) -> tuple[int, ...] | None:
    """Index in ``targets`` of each of ``sources``, if both are the same names in any order; else None.

    Case and punctuation are ignored: torchvision's ``__background__`` is ``background``.
    """
    sources, targets = (
        ["".join(filter(str.isalnum, name.casefold())) for name in names] for names in (sources, targets)
    )
    if sorted(sources) != sorted(targets) or len(set(targets)) < len(targets):
        return None
    return tuple(map(targets.index, sources))


def usual_names(count: int, report: LoadReport | None) -> tuple[str, ...]:
    """Class names of the one data set with that class count, plus void if the report counts it; () if there is none.

    Used for the lines of a class map and in errors only.
    """
    void = (VOID,) if report and report.counts_void else ()
    names = {tuple(dataset.CLASSES) for dataset in DATASETS.values() if len(dataset.CLASSES) + len(void) == count}
    return (*names.pop(), *void) if len(names) == 1 else ()


def read_class_map(file: str | Path, sources: Sequence[str], targets: Sequence[str]) -> ClassMap:
    """A text file of lines ``class of the network -> class of the data set`` or ``-> none``; # begins a comment.

    Every class of the network has one line; several may map to one. A class may be given by its number, from 0. The
    class void needs no line, it maps to none.

    Args:
        sources, targets: the names of the network's and of the data set's classes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is no such pair, an unknown class, one that is mapped twice or left out; names the line.
            A file that is no UTF-8 text.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"no class map {file}")
    mapped: dict[int, int | None] = {}
    for number, line in read_lines(file):
        line, where = line.partition("#")[0].strip(), f"{file}:{number}"
        if not line:
            continue
        source, arrow, target = (part.strip() for part in line.partition("->"))
        if not (source and arrow and target):
            raise ValueError(f"{where}: expected 'class of the network -> class of the data set', not {line!r}")
        index = index_of(source, sources, f"{where}: the network")
        if index in mapped:
            raise ValueError(f"{where}: {source!r} is mapped a second time")
        mapped[index] = None if target == NONE else index_of(target, targets, f"{where}: the data set")
    if left_out := [name for index, name in enumerate(sources) if index not in mapped and name != VOID]:
        raise ValueError(f"{file} leaves out {', '.join(left_out)}: map each to a class of the data set or to {NONE}")
    class_map = ClassMap(tuple(mapped.get(index) for index in range(len(sources))), len(targets))
    if not class_map.known:
        raise ValueError(f"{file} maps every class to {NONE}: nothing is left to compare")
    return class_map


def index_of(name: str, names: Sequence[str], owner: str) -> int:
    """The number of a class that is named or numbered. ValueError with the nearest name if there is none."""
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    raise ValueError(f"{owner} has no class {name!r}; {hint}")
