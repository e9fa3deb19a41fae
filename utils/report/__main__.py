"""``python -m segdistill.utils.report``: a table of runs, or a comparison of groups of runs with a baseline."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from segdistill.utils.flags import Parser, run_command
from segdistill.utils.report import compare_groups, read_run, score_table, write_comparison, write_run_report


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(
        prog="python -m segdistill.utils.report",
        description="Runs side by side, or groups of runs against a baseline, paired by their seed.",
    )
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="folders of runs, in one table")
    parser.add_argument("--baseline", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument(
        "--group",
        dest="groups",
        nargs="+",
        action="append",
        default=[],
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
    if bool(options.runs) == bool(options.baseline):
        parser.error("give runs, or a comparison: --baseline RUN ... --group NAME RUN ...")
    if options.runs:
        if options.groups or options.teacher or options.vary:
            parser.error("--group, --teacher and --vary need --baseline")
        print(table_of(options.runs))
        return
    if options.images < 1:
        parser.error(f"--images must be 1 or more, not {options.images}")
    if not options.groups:
        parser.error("--baseline needs --group NAME RUN ...")
    if nameless := [group for group in options.groups if len(group) == 1]:
        parser.error(f"--group needs a name and at least one run, not {nameless[0][0]} alone")
    print(comparison_of(options))


def table_of(folders: Sequence[Path]) -> str:
    """The scores of runs side by side; writes the report of each. Runs without an evaluation are named below."""
    runs = {str(folder): read_run(folder) for folder in folders}
    for folder in folders:
        write_run_report(folder)
    scored = {name: run.evaluation for name, run in runs.items() if run.evaluation}
    parts = [score_table(scored)] if scored else []
    if missing := [name for name in runs if name not in scored]:
        command = f"eval.py --checkpoint {missing[0]}/best.pth --output {missing[0]}/evaluation.json"
        parts.append(f"No evaluation of its present checkpoint: {', '.join(missing)} ({command} ...)")
    return "\n\n".join([*parts, "report.md and report.html in each folder: classes, terms, curves and settings."])


def comparison_of(options: Namespace) -> str:
    groups = [(name, [Path(folder) for folder in folders]) for name, *folders in options.groups]
    comparison = compare_groups(options.baseline, groups, options.teacher, options.vary)
    written = write_comparison(comparison, options.output, options.images)
    return f"{written}\n\n{options.output}/report.md and report.html show classes, curves and predictions."


if __name__ == "__main__":
    run_command(main)
