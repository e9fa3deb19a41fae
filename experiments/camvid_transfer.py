"""Draws what a distilled student gains over schedule, labels and teachers, from the folders of camvid_transfer.sh.

    python experiments/camvid_transfer.py snapshots/camvid_transfer docs/images/camvid_transfer.png [TEACHER ...]

TEACHER: parts by weaker teachers, the names of their files. Lines are means over the seeds, points the seeds. What was
not run is left out.
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
    return [score_of(file) for file in sorted(part.glob(f"{name}_seed*/evaluation.json"))]


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
    schedule, half = {name: {} for name in COLORS}, {name: scores(folder / "half", name) for name in COLORS}
    for part in ("quarter", "half", "shorter", "methods", "longer"):
        for name in COLORS:
            if found := scores(folder / part, name):
                schedule[name][read_run(folder / part / f"{name}_seed0").options["num_steps"]] = found
    steps = f"{read_run(folder / 'half/alone_seed0').options['num_steps']} steps"
    panels = [("every label", "steps", schedule)]
    if (folder / "labels").is_dir():
        few = read_run(folder / "labels/alone_seed0").options["num_labels"]
        labels = {name: {few: scores(folder / "labels", name), 367: half[name]} for name in COLORS}
        panels.append((f"{steps}; the other images without labels", "labelled images of 367", labels))
    if weaker:
        taught = {
            round(score_of(folder / part / "teacher/evaluation.json"), 1): scores(folder / part, "dist")
            for part in (*weaker, "half")
        }
        teachers = {"alone": dict.fromkeys(taught, half["alone"]), "dist": taught}
        panels.append((f"{steps}, every label", "the teacher's mIoU", teachers))

    figure = Figure(figsize=(3.7 * len(panels), 3.6), layout="constrained")
    plots = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, unit, lines) in zip(plots, panels, strict=True):
        draw(axes, title, unit, lines)
    plots[0].set_ylabel("mIoU, CamVid test (%)")
    plots[0].legend(frameon=False)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
