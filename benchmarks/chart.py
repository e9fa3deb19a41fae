"""Bars of the tables that original_step.py and peers.py print: each program's time and peak memory over the first's.

python benchmarks/original_step.py DIR > step.txt
python benchmarks/peers.py > peers.txt
python benchmarks/chart.py step.txt peers.txt --output docs/images/steps.png
"""

import argparse
import re
from pathlib import Path

from matplotlib.figure import Figure

ROW = re.compile(r"(\S.{17})((?: +\d+\.\d+){7})$")  # as in_turn.compare prints it
TIME, MEMORY = 3, 6  # columns of ratios
COLORS = ("#0072B2", "#E69F00")


def rows_of(path: Path) -> list[tuple[str, list[float]]]:
    """Names and figures of a printed table; ValueError if there is none."""
    found = [match for line in path.read_text().splitlines() if (match := ROW.match(line))]
    if not found:
        raise ValueError(f"{path} holds no table of original_step.py or peers.py")
    return [(match[1].strip(), [float(word) for word in match[2].split()]) for match in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--output", required=True, metavar="PNG")
    options = parser.parse_args()
    tables = [rows_of(path) for path in options.tables]
    figure = Figure(figsize=(9, 1 + 0.4 * sum(map(len, tables))), layout="constrained")
    plots = figure.subplots(len(tables), 1, squeeze=False, height_ratios=[len(rows) for rows in tables])[:, 0]
    for axes, rows in zip(plots, tables, strict=True):
        names = [name for name, _ in rows]
        for shift, column, label, color in ((-0.2, TIME, "time", COLORS[0]), (0.2, MEMORY, "peak memory", COLORS[1])):
            places = [place + shift for place in range(len(rows))]
            bars = axes.barh(places, [figures[column] for _, figures in rows], 0.38, label=label, color=color)
            axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axes.set_yticks(range(len(rows)), names)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.12)
        axes.set_xlabel(f"over {names[0]}")
    plots[0].legend(frameon=False, fontsize=8)
    figure.savefig(options.output, dpi=110)


if __name__ == "__main__":
    main()
