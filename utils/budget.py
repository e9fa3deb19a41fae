"""How many training steps fit into some hours, by the cost of a step that runs have measured.

    python -m segdistill.utils.budget 2 snapshots/compare_scenes/cost/*

``experiments/compare.sh`` asks it, so that methods are compared at equal time.
"""

from collections.abc import Sequence
from pathlib import Path

from segdistill.utils.flags import Parser, number, run_command
from segdistill.utils.report.read import FinishedRun, read_run


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m segdistill.utils.budget", description="Steps that fit into some hours.")
    parser.add_argument("hours", type=number(float, above=0), metavar="HOURS", help="of training, without validation")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs, of a few steps or more")
    options = parser.parse_args(argv)
    runs = [read_run(folder) for folder in options.runs]
    for run, steps in [(run, steps_within(options.hours, run)) for run in runs]:
        print(f"{steps} steps of {seconds_of_step(run):.4f} s: {run.folder}")


def steps_within(hours: float, run: FinishedRun) -> int:
    """How many steps of a run fit into ``hours``.

    Raises:
        ValueError: not even one, or the run has not measured what a step costs.
    """
    seconds = seconds_of_step(run)
    steps = int(3600 * hours / seconds)
    if not steps:
        raise ValueError(
            f"{hours:g} hours are {3600 * hours:.3g} s, less than a step of {run.folder} ({seconds:.3g} s)"
        )
    return steps


def seconds_of_step(run: FinishedRun) -> float:
    """Of the student and of the teacher together."""
    if "step" not in run.cost:
        raise ValueError(f"{run.folder} has not measured what a step costs: train it for some steps")
    return run.cost["step"] + run.cost["teacher"]


if __name__ == "__main__":
    run_command(main)
