"""``python -m segdistill.utils.report`` compares groups of runs with a baseline."""

from collections.abc import Sequence
from pathlib import Path

from segdistill.utils.flags import Parser, run_command
from segdistill.utils.report import compare_groups, write_comparison


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(
        prog="python -m segdistill.utils.report",
        description="Compare groups of runs with a baseline. Runs pair up by their seed.",
    )
    parser.add_argument("--baseline", type=Path, nargs="+", required=True, metavar="RUN", help="folders of runs")
    parser.add_argument(
        "--group",
        dest="groups",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME", "RUN"),
        help="name and folders, of the baseline's seeds; the name auto is made of the terms",
    )
    parser.add_argument("--teacher", type=Path, metavar="RUN_OR_CHECKPOINT", help="shown next to the groups")
    parser.add_argument(
        "--vary", nargs="+", default=[], metavar="OPTION", help="options in which the groups may differ, such as lr_g"
    )
    parser.add_argument("--output", type=Path, default=Path("snapshots/report"), metavar="DIR")
    parser.add_argument("--images", type=int, default=4, metavar="N", help="rows of the panel of predictions")
    options = parser.parse_args(argv)
    if options.images < 1:
        parser.error(f"--images must be 1 or more, not {options.images}")
    if nameless := [group for group in options.groups if len(group) == 1]:
        parser.error(f"--group needs a name and at least one run, not {nameless[0][0]} alone")

    groups = [(name, [Path(folder) for folder in folders]) for name, *folders in options.groups]
    comparison = compare_groups(options.baseline, groups, options.teacher, options.vary)
    print(write_comparison(comparison, options.output, options.images))
    print(f"\n{options.output}/report.md shows classes, curves and predictions.")


if __name__ == "__main__":
    run_command(main)
