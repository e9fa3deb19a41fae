"""The report of a search: its trials by their validation score, and the score against every setting."""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from optuna.trial import FrozenTrial, TrialState

from segdistill.utils.report.drawings import image
from segdistill.utils.report.pictures import plot_curves, plot_settings
from segdistill.utils.report.read import FinishedRun, read_run
from segdistill.utils.report.render import curve_sections, decimals
from segdistill.utils.report.sections import Code, Heading, Items, Picture, Section, Table, markdown, write_report
from segdistill.utils.report.sentences import summary_of
from segdistill.utils.search.space import METHODS, Range, Space
from segdistill.utils.search.study import ALONE, Search, best_of

CURVES = 5  # trials whose curves are drawn
STATES = {TrialState.COMPLETE: "", TrialState.PRUNED: "stopped", TrialState.FAIL: "not finite"}


class Row(NamedTuple):
    """A student of the search: its words, its run, its validations by step, and its trial, if it is not alone."""

    words: str
    run: FinishedRun
    validations: dict[int, float]
    best: tuple[int | None, float | None]  # step and score
    trial: FrozenTrial | None = None

    @property
    def steps(self) -> int:
        """That were trained."""
        return self.run.metrics[-1]["step"] if self.run.metrics else 0


def report_search(search: Search, confirm: Sequence[str] = ()) -> str:
    """Write the report and its pictures to the folder of a finished search; returns the table and its notes.

    ``confirm``: ``name=value`` settings of experiments/compare.sh, by which the best is compared over other seeds.
    """
    figure, rows = search.figure, ranked(search)
    alone = make_row(search, ALONE, ALONE) if (search.folder / ALONE / "metrics.jsonl").exists() else None
    shown = ([alone] if alone else []) + rows[:CURVES]
    key = f"val/{figure.key}"
    curves = {row.words: [{"step": step, key: score} for step, score in row.validations.items()] for row in shown}
    plot_curves({words: [validations] for words, validations in curves.items()}, search.folder / "curves.png")
    plot_settings(
        [(row.trial.params, row.best[1], row.trial.state == TrialState.COMPLETE) for row in rows],
        figure,
        alone and alone.best[1],
        search.folder / "settings.png",
        scales_of(search.space),
    )
    command = confirming(search, rows[0], confirm)
    table: list[Section] = [trial_table(search, rows, alone), Items(notes_of(search, rows))]
    table += ["Whether the best is better for other seeds:", Code(command)]
    sections = [Heading(f"A search among {len(rows)} settings", 1), Items([summary_of(row.run) for row in shown[:2]])]
    sections += [Heading(f"Validation {figure.name}"), *table, Heading("Settings")]
    pixels = image(search.folder / "settings.png")
    sections += [Picture("settings.png", "score of each trial against each of its settings", pixels)]
    sections += [f"Open circles were stopped early.{' The line is the student alone.' if alone else ''}"]
    sections += curve_sections({words: {"": validations} for words, validations in curves.items()})
    sections += ["The folder of each student has its own report, weights and curves."]
    write_report(sections, search.folder)
    return f"{markdown(table)}\n\n{search.folder}/report.md shows the score against each setting."


def ranked(search: Search) -> list[Row]:
    """The trials that ended by their score, then those that were stopped, the longest trained first."""
    rows = [
        make_row(search, search.name(trial), shlex.join(search.space.words(trial.params)), trial)
        for trial in search.asked()
    ]
    order, sign = list(STATES), -1 if search.figure.greater_is_better else 1
    return sorted(rows, key=lambda row: (order.index(row.trial.state), -row.steps, sign * (row.best[1] or 0)))


def make_row(search: Search, name: str, words: str, trial: FrozenTrial | None = None) -> Row:
    validations = search.validations(name)
    best = best_of(validations, search.figure) if validations else (None, None)
    return Row(words, read_run(search.folder / name), validations, best, trial)


def trial_table(search: Search, rows: list[Row], alone: Row | None) -> Table:
    """A row a student; the steps that were trained, and seconds of a step with its share of the teacher."""
    text = search.figure.text

    def cells(row: Row) -> list[str]:
        (step, score), baseline = row.best, alone.best[1] if alone and row.trial else None
        seconds = sum(row.run.cost[name] for name in ("step", "teacher")) if row.run.cost else None
        return [
            row.words,
            STATES[row.trial.state] if row.trial else "",
            text(score),
            "-" if None in (score, baseline) else text(score - baseline, "+"),
            "-" if step is None else str(step),
            str(row.steps),
            decimals(seconds),
        ]

    header = [f"{search.figure.title}, validation", "", "best", "delta", "at step", "steps", "s a step"]
    return Table(header, [cells(row) for row in ([alone] if alone else []) + rows], texts=2)


def notes_of(search: Search, rows: list[Row]) -> list[str]:
    pruned = sum(row.trial.state == TrialState.PRUNED for row in rows)
    steps, all_steps = sum(row.steps for row in rows), len(rows) * search.num_steps
    return [
        f"Each student is shown at its best validation, and the first is the best of {len(rows)}: its score is too "
        "high, among equals one would lead as well. One seed has no spread.",
        f"Stopped early, below the median of the finished ones at that step: {pruned}. {steps} of {all_steps} steps "
        "were trained.",
    ]


def confirming(search: Search, best: Row, settings: Sequence[str]) -> str:
    """The command that trains the best and the student alone with three other seeds."""
    seed = best.run.options["seed"]
    values = {"methods": f"best: {best.words}", "seeds": f"{seed + 1} {seed + 2} {seed + 3}"}
    values |= dict(word.split("=", 1) for word in settings) | {"output": f"{search.folder}/confirmed"}
    assigned = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
    return f"{' '.join(assigned)} bash experiments/compare.sh"


def scales_of(space: Space) -> dict[str, str | Sequence[str]]:
    """The axis of each parameter: "log", "linear", or its values in their order."""
    scales = {METHODS: list(space.alternatives)}
    for alternative in space.alternatives:
        for name, _, values in space.choices(alternative):
            scales[name] = values if not isinstance(values, Range) else "log" if values.log else "linear"
    return scales
