"""Faults of depth files that ``check`` looks for: wrong units, disparity taken for depth, coarse steps, borders."""

from collections.abc import Iterable

import numpy as np

from segdistill.dataset.base import SegmentationDataset

FACTORS = {1000: "metres where millimetres are", 0.001: "millimetres where metres are", 256: "metres where 1/256 m are"}
MOST_OUTSIDE = 0.5  # of the values that are above 0: more beyond the range is probably a wrong unit
FEW_LEVELS = 256
JUMP = 30  # between the medians of two files: more is probably a change of units
MOST_INVERTED = 0.8  # of the files whose lower part is farther away than their upper part


class DepthTally:
    """What the depth files of a split hold, file by file."""

    def __init__(self, dataset: SegmentationDataset):
        self.dataset = dataset
        self.known = self.void = 0
        self.medians: dict[str, float] = {}  # in metres, before anything is void
        self.eight_bit: list[str] = []
        self.coarse: list[str] = []
        self.bordered: list[str] = []
        self.inverted = self.sloped = 0
        self.inside = self.shares = 0
        self.scaled = dict.fromkeys(FACTORS, 0)

    def look(self, index: int) -> None:
        """Read the file of an item. Raises: ValueError, FileNotFoundError, as ``read_label``."""
        name, values = str(self.dataset.pairs[index].label), self.dataset.stored_depth(index)
        label = self.dataset.read_label(index).numpy()
        known = int(np.isfinite(label).sum())
        self.known, self.void = self.known + known, self.void + label.size - known
        positive = np.isfinite(values) & (values > 0)
        if not positive.any():
            return
        if values.dtype == np.uint8:
            self.eight_bit.append(name)
        elif len(np.unique(values[positive])) <= FEW_LEVELS < positive.sum() // 16:
            self.coarse.append(name)
        scale, inverse = self.dataset.DEPTH_STORAGE
        metres = scale / values[positive] if inverse else scale * values[positive].astype(np.float64)
        self.medians[name] = float(np.median(metres))
        self.shares += 1
        self.inside += self.share_inside(metres)
        for factor in FACTORS:
            self.scaled[factor] += self.share_inside(metres / factor)
        if has_constant_border(values):
            self.bordered.append(name)
        third = len(label) // 3
        upper, lower = (part[np.isfinite(part)] for part in (label[:third], label[-third:]))
        if len(upper) and len(lower):
            self.sloped += 1
            self.inverted += bool(np.median(lower) > np.median(upper))

    def share_inside(self, metres: np.ndarray) -> float:
        limits = self.dataset.DEPTH_RANGE
        return float(((metres >= limits.low) & (metres <= limits.high)).mean())

    def errors(self) -> list[str]:
        low, high, _ = self.dataset.DEPTH_RANGE
        found = []
        if self.shares and self.inside / self.shares < 1 - MOST_OUTSIDE:
            best = max(FACTORS, key=self.scaled.get)
            fits = self.scaled[best] / self.shares > 1 - MOST_OUTSIDE
            hint = f": are they read as {FACTORS[best]}?" if fits else ": what is their unit?"
            outside = 100 * (1 - self.inside / self.shares)
            found.append(f"{outside:.0f} % of the depths are not within {low:g}..{high:g} m{hint}")
        if self.medians:
            least, most = min(self.medians, key=self.medians.get), max(self.medians, key=self.medians.get)
            if self.medians[most] > JUMP * self.medians[least]:
                found.append(
                    f"the unit changes in between: the median of {least} is {self.medians[least]:.4g} m, of {most} "
                    f"{self.medians[most]:.4g} m"
                )
        return found

    def warnings(self) -> list[str]:
        found = []
        if self.eight_bit:
            found.append(f"{some(self.eight_bit)} 8 bits, 255 steps from near to far: are they pictures of depth?")
        if self.coarse:
            found.append(f"{some(self.coarse)} at most {FEW_LEVELS} values: were they quantised to 8 bits?")
        if self.bordered:
            found.append(f"{some(self.bordered)} a border of one value: was it filled in? 0 there is void")
        if self.sloped > 2 and self.inverted > MOST_INVERTED * self.sloped:
            found.append(
                f"the lower part of {self.inverted} of {self.sloped} maps is farther away than the upper one: are "
                "these disparities, or an inverted depth?"
            )
        return found


def some(names: Iterable[str]) -> str:
    """ "3 files, a.png the first, have"."""
    names = list(names)
    return f"{len(names)} files, {names[0]} the first, have" if len(names) > 1 else f"{names[0]} has"


def has_constant_border(values: np.ndarray) -> bool:
    """Whether two rows or columns at an edge are one value above 0, which is not all there is."""
    edges = (values[:2], values[-2:], values[:, :2], values[:, -2:])
    return values.min() != values.max() and any(edge.min() == edge.max() > 0 for edge in edges)
