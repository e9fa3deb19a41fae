"""Pictures for people: label maps in colour, training curves, panels of predictions."""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

Palette = Sequence[Sequence[int]]

# Okabe and Ito's, told apart by colour-blind readers.
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, FAINT = "#333333", "#DDDDDD"
LABEL_GAP = 0.09  # least distance of two labels beside a plot, as a fraction of its height
CELL_WIDTH = 3.0  # inches, of a panel's cell


def colorize(label: np.ndarray, palette: Palette) -> np.ndarray:
    """Colours (H, W, 3) uint8 of class ids (H, W), any integers; ids outside ``palette`` (255 is void) are black.

    Raises:
        ValueError: ``label`` is no map of integers.
    """
    colors = np.array([*palette, (0, 0, 0)], np.uint8)
    return colors[_fold(label, len(palette))]


def overlay(image: np.ndarray, label: np.ndarray, palette: Palette, alpha: float = 0.5) -> np.ndarray:
    """The image (H, W, 3) uint8 tinted by its classes (H, W); pixels of no class keep their own colour.

    Args:
        alpha: weight of the class colour, 0..1.

    Raises:
        ValueError: image and label differ in size.
    """
    ids = _fold(label, len(palette))
    if image.shape != (*ids.shape, 3):
        raise ValueError(f"image {image.shape} and label {ids.shape} differ in size; expected (H, W, 3) and (H, W)")
    tinted = (1 - alpha) * image + alpha * colorize(label, palette)
    return np.where((ids < len(palette))[..., None], tinted.round().astype(np.uint8), image)


def _fold(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Class ids as indices (H, W), ``num_classes`` for every id that is none."""
    label = np.asarray(label)
    if label.ndim != 2 or label.dtype.kind not in "iu":
        raise ValueError(f"a label map is (H, W) of integers, not {label.shape} of {label.dtype}")
    ids = label.astype(np.intp)
    ids[(ids < 0) | (ids >= num_classes)] = num_classes
    return ids


def plot_curves(runs: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Draw mIoU and every loss term over the steps, a plot each, all runs together, as PNG.

    Losses are noisy: their values are drawn faint, their moving average in full colour.

    Args:
        runs: the rows of metrics.jsonl by the run's name. Names that agree up to a comma ("alone, seed 0" and
            "alone, seed 1") share a colour and a label.

    Raises:
        ValueError: no row has mIoU or a loss term.
    """
    keys = dict.fromkeys(key for rows in runs.values() for row in rows for key in row)
    quantities = [key for key in keys if key == "val/mean_iou"]
    quantities += [key for key in keys if key.startswith(("loss/", "critic/"))]
    if not quantities:
        raise ValueError(
            f"the metrics of {', '.join(runs)} have neither 'val/mean_iou' nor 'loss/...': nothing to draw"
        )
    groups = dict.fromkeys(_group_of(name) for name in runs)
    colors = {group: LINE_COLORS[i % len(LINE_COLORS)] for i, group in enumerate(groups)}

    lines = 1 + len(quantities) // 4
    columns = ceil(len(quantities) / lines)
    end = max(row["step"] for rows in runs.values() for row in rows)
    figure = Figure(figsize=(4 * columns, 2.7 * lines), layout="constrained")
    for i, key in enumerate(quantities):
        axes = figure.add_subplot(lines, columns, i + 1)
        _plot_quantity(axes, key, runs, colors)
        axes.set_xlim(0, 1.02 * end)
        if i + columns >= len(quantities):
            axes.set_xlabel("training step", color=INK)
    _save(figure, path)


def _plot_quantity(
    axes: Axes, key: str, runs: Mapping[str, Sequence[Mapping[str, float]]], colors: Mapping[str, str]
) -> None:
    is_iou = key == "val/mean_iou"
    ends = {}
    for name, rows in runs.items():
        points = np.array([(row["step"], row[key]) for row in rows if key in row])
        if len(points) == 0:
            continue
        window = 1 if is_iou else 1 + len(points) // 20
        if is_iou:
            points[:, 1] *= 100
        mean = np.stack([np.convolve(column, np.full(window, 1 / window), "valid") for column in points.T], axis=1)
        color = colors[_group_of(name)]
        if window > 1:
            axes.plot(*points.T, color=color, linewidth=0.7, alpha=0.25)
        axes.plot(*mean.T, color=color, linewidth=1.6, marker="o" if len(mean) <= 25 else None, markersize=3)
        ends.setdefault(_group_of(name), []).append(mean[-1, 1])

    _style(axes, "validation mIoU (%)" if is_iou else key.removeprefix("loss/").replace("_", " "))
    if len(colors) > 1:
        _label_lines(axes, {group: float(np.mean(values)) for group, values in ends.items()}, colors)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _label_lines(axes: Axes, ends: Mapping[str, float], colors: Mapping[str, str]) -> None:
    """Write each group's name beside the end of its lines, names that would overlap apart."""
    low, high = axes.get_ylim()
    names = sorted(ends, key=ends.get)
    wanted = np.array([(ends[name] - low) / (high - low) for name in names])
    steps = LABEL_GAP * np.arange(len(names))
    heights = np.maximum.accumulate(wanted - steps) + steps
    heights -= (heights - wanted).mean()
    for name, height in zip(names, heights, strict=True):
        axes.text(1.02, height, name, transform=axes.transAxes, color=colors[name], fontsize=9, va="center")


def _group_of(name: str) -> str:
    return name.split(",")[0]


def draw_panel(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    path: Path,
    classes: Sequence[str] | None = None,
    palette: Palette | None = None,
) -> None:
    """Draw a grid of pictures, a row an image, with a legend of the classes that occur, as PNG.

    Args:
        rows: for each image one cell a title: a picture (H, W, 3) uint8, or class ids (H, W) to colour by ``palette``.
        titles: of the columns.
        classes: their names in the order of the ids; None leaves the legend out.

    Raises:
        ValueError: a row has not one cell a title, or class ids come without a palette.
    """
    if any(len(row) != len(titles) for row in rows):
        raise ValueError(f"every row needs {len(titles)} cells ({', '.join(titles)}), not {[len(row) for row in rows]}")
    maps = [np.asarray(cell) for row in rows for cell in row if np.ndim(cell) == 2]
    if maps and palette is None:
        raise ValueError("class ids cannot be coloured without a palette")
    height, width = rows[0][0].shape[:2]

    figure = Figure(
        figsize=(CELL_WIDTH * len(titles), CELL_WIDTH * height / width * len(rows) + 1), layout="compressed"
    )
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            axes = figure.add_subplot(len(rows), len(titles), i * len(titles) + j + 1)
            axes.imshow(cell if np.ndim(cell) == 3 else colorize(cell, palette), interpolation_stage="rgba")
            axes.set_axis_off()
            if i == 0:
                axes.set_title(titles[j], fontsize=13, color=INK)
    if classes and maps:
        handles = _legend(maps, classes, palette)
        columns = ceil(len(handles) / ceil(len(handles) / (2 * len(titles))))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=11)
    _save(figure, path)


def _legend(maps: Sequence[np.ndarray], classes: Sequence[str], palette: Palette) -> list[Patch]:
    present = np.unique(np.concatenate([np.unique(_fold(label, len(classes))) for label in maps]))
    names, colors = (*classes, "void"), (*palette[: len(classes)], (0, 0, 0))
    return [Patch(color=np.array(colors[i]) / 255, label=names[i]) for i in present]


def _save(figure: Figure, path: Path) -> None:
    """Write by rename, so that a reader never sees half a picture."""
    temporary = path.with_name(f".{path.name}.tmp")
    FigureCanvasAgg(figure)
    figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight")
    temporary.replace(path)
