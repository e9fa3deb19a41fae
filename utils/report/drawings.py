"""What the pictures of a report show, as plain data: curves, deltas of classes, panels. Its page draws them."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from segdistill.libs.page import data_uri
from segdistill.utils.report.compare import Comparison
from segdistill.utils.tasks import AGREEMENTS, TASKS
from segdistill.utils.tasks import Figure as TaskFigure

Rows = Sequence[Mapping[str, float]]

MOST_POINTS = 400  # of a curve in the page
LONGEST_SIDE = 1024  # of a picture in the page


class Panel(NamedTuple):
    """Pictures (H, W, 3) uint8, a row an image and a column a title, and the colours (RGB, 0..255) by name."""

    rows: Sequence[Sequence[np.ndarray]]
    titles: Sequence[str]
    legend: Mapping[str, Sequence[int]]


def quantities_of(keys: Sequence[str]) -> dict[str, str]:
    """Titles of the plots, by the column that each shows, in their order: scores, losses, shares, the methods' own."""
    titles = {key: f"validation {score_of(key).title}" for key in keys if score_of(key)}
    shares = [key for key in keys if key.startswith("share/")]
    titles |= {key: key.removeprefix("loss/").replace("_", " ") for key in keys if key.startswith("loss/")}
    if len(shares) > 1:  # the share of a single term is 1 throughout
        titles |= {key: f"share of {key.removeprefix('share/').replace('_', ' ')} (%)" for key in shares}
    own = [key for key in keys if "/" in key and not key.startswith(("val/", "loss/", "share/", "cost/"))]
    return titles | {key: key.replace("/", ": ").replace("_", " ") for key in own}


def score_of(key: str) -> TaskFigure | None:
    """The primary figure of a task, if this is its column."""
    tasks = (*TASKS.values(), *AGREEMENTS.values())
    return next((task.primary for task in tasks if key == f"val/{task.primary.key}"), None)


def points_of(rows: Rows, key: str) -> np.ndarray:
    """Steps and shown values (N, 2) of a column of the metrics."""
    score = score_of(key)
    factor = score.factor if score else 100 if key.startswith("share/") else 1
    return np.array([(row["step"], factor * row[key]) for row in rows if key in row]).reshape(-1, 2)


def smoothed(points: np.ndarray, key: str) -> np.ndarray:
    """Their moving average over a twentieth of the points; ``val/...`` as it is."""
    window = 1 if key.startswith("val/") else 1 + len(points) // 20
    return np.stack([np.convolve(column, np.full(window, 1 / window), "valid") for column in points.T], axis=1)


def curves(groups: Mapping[str, Mapping[str, Rows]]) -> dict:
    """A plot for each quantity, of its moving averages.

    Args:
        groups: by group and run the rows of metrics.jsonl.
    """
    runs = [(index, name, rows) for index, group in enumerate(groups.values()) for name, rows in group.items()]
    quantities = quantities_of(dict.fromkeys(key for _, _, rows in runs for row in rows for key in row))
    plots = []
    for key, title in quantities.items():
        lines = []
        for group, name, rows in runs:
            points = points_of(rows, key)
            if len(points):
                points = smoothed(points, key)
                points = points[np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int))]
                points = [[float(f"{x:.6g}"), float(f"{y:.5g}")] for x, y in points if np.isfinite(y)]
                lines.append({"group": group, "name": name, "points": points})
        plots.append({"title": title, "lines": lines})
    return {"kind": "curves", "groups": list(groups), "plots": plots}


def class_deltas(comparison: Comparison) -> dict:
    """Points above the baseline of each class: means, and each seed's."""
    baseline, *groups = comparison.groups
    return {
        "kind": "deltas",
        "figure": f"{baseline.task.per_class.name}: points above {baseline.name}",
        "classes": baseline.first.evaluation["classes"],
        "groups": [
            {
                "name": group.name,
                "means": [mean and 100 * mean for mean in group.delta.class_means],
                "seeds": [[100 * delta for delta in deltas] for deltas in group.delta.classes],
            }
            for group in groups
        ],
    }


def columns_of(file: Path, titles: Sequence[str]) -> Panel:
    """A picture that holds columns of one width, as one row."""
    return Panel([np.array_split(np.asarray(Image.open(file).convert("RGB")), len(titles), axis=1)], titles, {})


def panel(shown: Panel) -> dict:
    """Pictures one over the other with a slider between two of them."""
    return {
        "kind": "panel",
        "titles": list(shown.titles),
        "rows": [[address_of(cell) for cell in row] for row in shown.rows],
        "legend": {name: [int(value) for value in color] for name, color in shown.legend.items()},
    }


def image(file: Path) -> dict:
    """A PNG file as it is."""
    return {"kind": "image", "address": data_uri(file.read_bytes(), "image/png")}


def address_of(picture: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 in an address; PNG for flat colours, else JPEG; scaled down if it is large."""
    image, file = Image.fromarray(picture), io.BytesIO()
    is_flat = image.getcolors(256) is not None
    if (scale := LONGEST_SIDE / max(image.size)) < 1:
        size = [max(1, round(scale * side)) for side in image.size]
        image = image.resize(size, Image.Resampling.NEAREST if is_flat else Image.Resampling.BOX)
    if is_flat:
        image.save(file, "png")
        return data_uri(file.getvalue(), "image/png")
    image.save(file, "jpeg", quality=90)
    return data_uri(file.getvalue(), "image/jpeg")
