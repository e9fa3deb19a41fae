"""Plots as PNG: curves, deltas of the classes, panels of predictions. The only module that needs matplotlib."""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from segdistill.libs.files import replacing
from segdistill.utils.report.compare import Comparison
from segdistill.utils.report.drawings import Panel, Rows, points_of, quantities_of, smoothed
from segdistill.utils.tasks import Figure as TaskFigure

# Okabe and Ito's, told apart by colour-blind readers.
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, FAINT = "#333333", "#DDDDDD"
LABEL_GAP = 0.09  # least distance of two labels beside a plot, as a fraction of its height
CELL_WIDTH = 3.0  # inches, of a panel's cell


def plot_curves(groups: Mapping[str, Sequence[Rows]], path: Path) -> None:
    """Draw the primary figure, every term of the loss and its share over the steps, a plot each, all runs together.

    Losses are noisy: their values are drawn faint, their moving average in full colour.

    Args:
        groups: the rows of metrics.jsonl of each of its runs, by the group's name; a group shares a colour and a label.

    Raises:
        ValueError: no row has anything to draw.
    """
    runs = [rows for group in groups.values() for rows in group]
    quantities = quantities_of(dict.fromkeys(key for rows in runs for row in rows for key in row))
    if not quantities:
        raise ValueError(
            f"the metrics of {', '.join(groups)} have neither a validation score nor 'loss/...': nothing to draw"
        )
    colors = colors_of(groups)
    lines = 1 + len(quantities) // 4
    columns = ceil(len(quantities) / lines)
    end = max(row["step"] for rows in runs for row in rows)
    beside = 0.1 + 0.075 * max(map(len, groups)) if len(groups) > 1 else 0.1  # inches, of the groups' names
    figure = Figure(figsize=(columns * (3.7 + beside), 2.7 * lines))
    # Margins that are known beforehand: to measure them, all is laid out and drawn several times.
    sides = {"left": 0.5, "right": columns * (3.7 + beside) - beside, "bottom": 0.5, "top": 2.7 * lines - 0.3}
    width, height = figure.get_size_inches()
    sides = {side: inches / (height if side in ("bottom", "top") else width) for side, inches in sides.items()}
    figure.subplots_adjust(**sides, wspace=(0.5 + beside) / 3.2, hspace=0.65 / 2.05)
    for i, (key, title) in enumerate(quantities.items()):
        axes = figure.add_subplot(lines, columns, i + 1)
        plot_quantity(axes, key, groups, colors)
        style(axes, title)
        axes.set_xlim(0, 1.02 * end)
        if i + columns >= len(quantities):
            axes.set_xlabel("training step", color=INK)
    save(figure, path)


def colors_of(groups: Sequence[str]) -> dict[str, str]:
    return {group: LINE_COLORS[i % len(LINE_COLORS)] for i, group in enumerate(groups)}


def plot_quantity(axes: Axes, key: str, groups: Mapping[str, Sequence[Rows]], colors: Mapping[str, str]) -> None:
    """One column of the metrics; ``val/...`` as it is, the rest smoothed."""
    ends = {}
    for group, runs in groups.items():
        for rows in runs:
            points = points_of(rows, key)
            if len(points) == 0:
                continue
            mean = smoothed(points, key)
            if len(mean) < len(points):
                axes.plot(*points.T, color=colors[group], linewidth=0.7, alpha=0.25)
            marker = "o" if len(mean) <= 25 else None
            axes.plot(*mean.T, color=colors[group], linewidth=1.6, marker=marker, markersize=3)
            ends.setdefault(group, []).append(mean[-1, 1])

    if len(colors) > 1:
        label_lines(axes, {group: float(np.mean(values)) for group, values in ends.items()}, colors)


def style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))


def label_lines(axes: Axes, ends: Mapping[str, float], colors: Mapping[str, str]) -> None:
    """Write each group's name at the end of its lines, without overlaps."""
    low, high = axes.get_ylim()
    names = sorted(ends, key=ends.get)
    wanted = np.array([(ends[name] - low) / (high - low) for name in names])
    steps = LABEL_GAP * np.arange(len(names))
    up = np.maximum.accumulate(wanted - steps) + steps
    down = np.minimum.accumulate((wanted - steps)[::-1])[::-1] + steps
    heights = np.clip((up + down) / 2, steps, 1 - steps[::-1])  # each of the four keeps the distance, so does this
    for name, height in zip(names, heights, strict=True):
        axes.text(1.02, height, name, transform=axes.transAxes, color=colors[name], fontsize=9, va="center")


def plot_class_deltas(comparison: Comparison, path: Path) -> None:
    """Draw the mean delta of each class's figure as bars, a colour a group, and the deltas of the seeds as dots."""
    baseline, *groups = comparison.groups
    classes = baseline.first.evaluation["classes"]
    colors = colors_of([group.name for group in comparison.groups])
    thickness = 0.8 / len(groups)
    figure = Figure(figsize=(7, 1 + len(classes) * (0.12 + 0.14 * len(groups))), layout="constrained")
    axes = figure.add_subplot()
    for i, group in enumerate(groups):
        heights = np.arange(len(classes)) - 0.4 + (i + 0.5) * thickness
        means = [100 * (mean or 0) for mean in group.delta.class_means]
        axes.barh(heights, means, 0.9 * thickness, color=colors[group.name], alpha=0.75, label=group.name)
        if not comparison.caveats.one_seed:
            for height, deltas in zip(heights, group.delta.classes, strict=True):
                axes.plot(100 * np.array(deltas), [height] * len(deltas), "o", color=INK, markersize=2.5)
    seeds = "" if comparison.caveats.one_seed else " (dots: the seeds)"
    style(axes, f"{baseline.task.per_class.name}: points above {baseline.name}{seeds}")
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.set_yticks(range(len(classes)), classes)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    save(figure, path)


def plot_settings(
    trials: Sequence[tuple[Mapping[str, float | str], float | None, bool]],
    score: TaskFigure,
    baseline: float | None,
    path: Path,
    scales: Mapping[str, str | Sequence[str]],
) -> None:
    """Draw the scores of a search against each setting, a plot each.

    Args:
        trials: settings by name, score (None: not drawn), and whether it was trained to the end.
        baseline: the score of the student alone, drawn as a line.
        scales: of each setting "linear", "log", or its values in their order.
    """
    names = list(dict.fromkeys(name for settings, _, _ in trials for name in settings))
    columns = min(len(names), 4)
    lines = ceil(len(names) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.8 * lines), layout="constrained")
    for i, name in enumerate(names):
        axes = figure.add_subplot(lines, columns, i + 1)
        points = [(settings[name], value, ended) for settings, value, ended in trials if name in settings]
        style(axes, name)
        scale, color = scales[name], LINE_COLORS[0]
        if isinstance(scale, str):
            axes.set_xscale(scale)
        else:
            axes.set_xticks(range(len(scale)), scale)
            axes.set_xlim(-0.5, len(scale) - 0.5)
        for value, result, ended in points:
            if result is not None:
                place = value if isinstance(scale, str) else scale.index(value)
                axes.plot(place, score.factor * result, "o", color=color, markerfacecolor=color if ended else "none")
        if baseline is not None:
            axes.axhline(score.factor * baseline, color=INK, linewidth=0.8)
        if i % columns == 0:
            axes.set_ylabel(f"validation {score.title}", color=INK)
    save(figure, path)


def draw_panel(panel: Panel, path: Path) -> None:
    """Draw a grid of pictures, a row an image, above a legend; heights and widths may differ from row to row.

    Raises:
        ValueError: a row has not one cell a title.
    """
    rows, titles, legend = panel
    if any(len(row) != len(titles) for row in rows):
        raise ValueError(f"every row needs {len(titles)} cells ({', '.join(titles)}), not {[len(row) for row in rows]}")
    heights = [row[0].shape[0] / row[0].shape[1] for row in rows]  # every cell is as wide as its column
    figure = Figure(figsize=(CELL_WIDTH * len(titles), CELL_WIDTH * sum(heights) + 1), layout="compressed")
    grid = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
    for axes, cell in zip(grid.flat, (cell for row in rows for cell in row), strict=True):
        axes.imshow(cell, interpolation_stage="rgba")
        axes.set_axis_off()
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=13, color=INK)
    if handles := [Patch(color=np.array(color) / 255, label=name) for name, color in legend.items()]:
        columns = ceil(len(handles) / ceil(len(handles) / (2 * len(titles))))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=11)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG; a figure without a layout engine has its margins already, and is drawn once."""
    FigureCanvasAgg(figure)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150, bbox_inches="tight" if figure.get_layout_engine() else None)
