"""Draws what a distilled student gains over schedule, labels and teachers, from the folders of camvid_transfer.sh.

    python experiments/camvid_transfer.py snapshots/camvid_transfer docs/images/camvid_transfer.png [TEACHER ...]

TEACHER: parts by weaker teachers, the names of their files. Lines are means over the seeds, points the seeds.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segdistill.utils.report import read_run

COLORS = {"alone": "#000000", "dist": "#0072B2"}
LABELS = {"alone": "alone", "dist": "DIST"}


def scores(part: Path, name: str) -> list[float]:
    """Test mIoU in percent of a student's seeds."""
    runs = [read_run(folder) for folder in sorted(part.glob(f"{name}_seed*"))]
    return [100 * run.evaluation["mean_iou"] for run in runs]


def score_of(evaluation: Path) -> float:
    return 100 * json.loads(evaluation.read_text())["mean_iou"]


def draw(axes: Axes, title: str, unit: str, lines: Mapping[str, Mapping[float, Sequence[float]]]) -> None:
    """A line a student, of the scores of its seeds at each place of the axis."""
    for name, points in lines.items():
        axes.plot(list(points), [mean(values) for values in points.values()], color=COLORS[name], label=LABELS[name])
        for place, values in points.items():
            axes.plot([place] * len(values), values, ".", color=COLORS[name], alpha=0.5)
    axes.set_xticks(sorted({place for points in lines.values() for place in points}))
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)


def main(folder: Path, picture: str, weaker: Sequence[str]) -> None:
    def both(part: str) -> dict[str, list[float]]:
        return {name: scores(folder / part, name) for name in COLORS}

    def option(part: str, name: str) -> int:
        return read_run(folder / part / "alone_seed0").options[name]

    half, few_labels = both("half"), both("labels")
    schedule = {name: {} for name in COLORS}
    for part in ("quarter", "half", "methods"):
        for name, values in both(part).items():
            schedule[name][option(part, "num_steps")] = values
    schedule["alone"][option("longer", "num_steps")] = scores(folder / "longer", "alone")
    labels = {name: {option("labels", "num_labels"): few_labels[name], 367: half[name]} for name in COLORS}
    taught = {
        score_of(folder / part / "teacher/evaluation.json"): scores(folder / part, "dist") for part in (*weaker, "half")
    }
    teachers = {"alone": dict.fromkeys(taught, half["alone"]), "dist": taught}

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    plots = figure.subplots(1, 3, sharey=True)
    steps = option("half", "num_steps")
    draw(plots[0], "every label", "steps", schedule)
    draw(plots[1], f"{steps} steps; the other images without labels", "labelled images of 367", labels)
    draw(plots[2], f"{steps} steps, every label", "the teacher's mIoU", teachers)
    plots[0].set_ylabel("mIoU, CamVid test (%)")
    plots[0].legend(frameon=False)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
