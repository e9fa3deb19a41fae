"""The weight of each class in the loss on labels: from a file, or computed from the training labels."""

import copy
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from segdistill.dataset import SegmentationDataset
from segdistill.dataset.check import check

# From a class's share of the labelled pixels, above 0, to its weight.
FORMULAS: dict[str, Callable[[float], float]] = {
    "inverse": lambda share: 1 / share,
    "enet": lambda share: 1 / math.log(1.02 + share),  # Paszke et al., ENet, 2016, section 5.1
}


def class_weights(given: str, dataset: SegmentationDataset) -> tuple[float, ...]:
    """The weights in the order of the data set's classes.

    Computed ones have mean 1 over the labelled pixels, so that a learning rate keeps its meaning; a class that does not
    occur has 0. Those of a file are used as they are.

    Args:
        given: a name of FORMULAS, or a file: lines ``NAME WEIGHT``, or JSON ``{"NAME": WEIGHT}``.
        dataset: the training split; its labels are counted as ``dataset check`` counts them, or was asked to before.

    Raises:
        ValueError: a file of another form, or of other classes; labels with errors.
    """
    if given not in FORMULAS:
        return in_order(read_weights(Path(given)), dataset.CLASSES, given)
    labelled = copy.copy(dataset)
    labelled.pairs = dataset.pairs[: dataset.num_labelled]
    verdict = check(labelled)
    if verdict.errors:
        raise ValueError(f"--class-weights {given}: {verdict.errors[0]}")
    pixels = verdict.num_pixels[: len(dataset.CLASSES)]
    shares = [count / sum(pixels) for count in pixels]
    weights = [FORMULAS[given](share) if share else 0.0 for share in shares]
    mean = sum(share * weight for share, weight in zip(shares, weights, strict=True))
    return tuple(weight / mean for weight in weights)


def read_weights(path: Path) -> dict[str, float]:
    """The weights of a file by name. Raises ValueError, which says where."""
    text = path.read_text(encoding="utf-8")
    try:
        if text.lstrip().startswith("{"):
            weights = json.loads(text)
        else:
            lines = (line.rsplit(maxsplit=1) for line in text.splitlines() if line.strip())
            weights = {name.strip(): float(number) for name, number in lines}
        if all(0 <= weight < math.inf for weight in weights.values()):
            return weights
    except (ValueError, TypeError):
        pass
    raise ValueError(f"--class-weights: {path} holds no lines 'NAME WEIGHT', or JSON of them, weights of 0 or more")


def in_order(weights: Mapping[str, float], classes: tuple[str, ...], source: str) -> tuple[float, ...]:
    """Raises ValueError unless there is a weight for each of the classes, and for no other."""
    unknown, missing = sorted(weights.keys() - set(classes)), [name for name in classes if name not in weights]
    if unknown or missing:
        words = [f"{', '.join(unknown)}: not of this data set"] if unknown else []
        words += [f"{', '.join(missing)}: without a weight"] if missing else []
        raise ValueError(f"--class-weights {source}: {'; '.join(words)}")
    return tuple(float(weights[name]) for name in classes)
