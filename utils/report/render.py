"""Runs and comparisons for people: the tables and the two reports."""

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from segdistill.dataset import DATASETS, SegmentationDataset, build_dataset
from segdistill.dataset.base import evenly_spaced
from segdistill.utils.checkpoint import load_predictor, load_required
from segdistill.utils.distributed import start_device
from segdistill.utils.protocol import describe
from segdistill.utils.report.compare import FREE, Comparison, Group, check_same_subject, classes_of
from segdistill.utils.report.drawings import Panel, class_deltas, columns_of, curves, panel
from segdistill.utils.report.read import FinishedRun, flat, read_run
from segdistill.utils.report.sections import (
    Heading,
    Items,
    Picture,
    Section,
    Settings,
    Table,
    markdown,
    write_report,
)
from segdistill.utils.report.sentences import (
    caption_of,
    caveat_sentences,
    conclusions,
    continued_sentence,
    cost_sentence,
    delta_of,
    processes_sentence,
    subject_of,
    summary_of,
)
from segdistill.utils.run import PANELS
from segdistill.utils.tasks import Figure, task_named, task_of

# --------------------------------------------------------------------------------------------------------- tables


def percent(value: float | None, sign: str = "") -> str:
    """0.61383 as "61.38", with sign="+" as "+61.38"; None as "-"."""
    return "-" if value is None else f"{100 * value:{sign}.2f}"


def score_table(evaluations: Mapping[str, Mapping]) -> str:
    """Markdown: a class and an evaluation, IoU (%) for segmentation, then categories and the task's figures; "-" for a
    class that does not occur. Below the table, how it was counted.

    Args:
        evaluations: the content of evaluation.json by the name of its column.

    Raises:
        ValueError: the evaluations are not of the same task, images and classes.
    """
    return markdown(scores_of(evaluations))


def scores_of(evaluations: Mapping[str, Mapping]) -> list[Section]:
    """The sections of ``score_table``."""
    check_same_subject(evaluations)
    columns = list(evaluations.values())
    rows = [
        [name, *(percent(classes_of(column)[i][1]) for column in columns)]
        for i, (name, _) in enumerate(classes_of(columns[0]))
    ]
    totals = [
        [f"category {name}", *(percent(column["category_iou"][name]) for column in columns)]
        for name in columns[0].get("category_iou", ())
    ]
    for figure in figures_of(columns[0]):
        totals.append([f"**{figure.name}**", *(figure.text(column[figure.key]) for column in columns)])
    totals.append(["parameters", *(f"{column['parameters'] / 1e6:.2f} M" for column in columns)])
    return [Table([corner_of(columns[0]), *evaluations], rows, totals), counted(columns)]


def corner_of(evaluation: Mapping) -> str:
    """The first cell of a table of scores, "IoU (%)"."""
    task = task_named(evaluation)
    return (task.per_class or task.primary).title


def figures_of(evaluation: Mapping) -> list[Figure]:
    """The figures that an evaluation has; not every data set has categories."""
    return [figure for figure in task_named(evaluation).figures if evaluation[figure.key] is not None]


def counted(evaluations: Sequence[Mapping]) -> str:
    """A sentence: the protocol, and the classes that are in no mean."""
    columns = zip(*map(classes_of, evaluations), strict=True)
    absent = [column[0][0] for column in columns if all(value is None for _, value in column)]
    left_out = f" Neither in truth nor predicted, so in no mean: {', '.join(absent)}." if absent else ""
    return f"Protocol: {describe(evaluations[0]['protocol'])}.{left_out}"


def paired_table(comparison: Comparison) -> Table:
    """A row a group with the primary figure, spread, delta to the baseline, steps and seconds of training, and every
    seed."""
    baseline = comparison.groups[0]
    primary = baseline.task.primary
    rows = [
        [group.name, *map(primary.text, (group.mean, group.std)), delta_of(group)]
        + [str(group.first.options["num_steps"]), "-" if group.seconds is None else f"{group.seconds:.1f}"]
        + [primary.text(score) for score in group.scores.values()]
        for group in comparison.groups
    ]
    if shown := comparison.teacher_evaluation:
        rows.append(["teacher", primary.text(shown[primary.key]), *["-"] * (4 + len(baseline.runs))])
    header = [primary.title, "mean", "std", "delta", "steps", "seconds", *(f"seed {seed}" for seed in baseline.runs)]
    return Table(header, rows)


def class_table(comparison: Comparison) -> list[Section]:
    """A class and a group, means over the seeds, with the delta to the baseline in brackets; below the table, how it
    was counted."""
    baseline, *groups = comparison.groups
    shown = comparison.teacher_evaluation
    first = baseline.first.evaluation
    header = [corner_of(first), *(["teacher"] if shown else []), *(group.name for group in comparison.groups)]

    def row(
        name: str,
        text: Callable[..., str],
        teacher: float | None,
        means: Sequence[float | None],
        deltas: Sequence[float | None],
    ) -> list[str]:
        changed = [
            "-" if delta is None else f"{text(mean)} ({text(delta, '+')})"
            for mean, delta in zip(means[1:], deltas, strict=True)
        ]
        return [name, *([text(teacher)] if shown else []), text(means[0]), *changed]

    rows, totals = [], []
    for i, (name, _) in enumerate(classes_of(first)):
        means = [
            mean_of([classes_of(run.evaluation)[i][1] for run in group.runs.values()]) for group in comparison.groups
        ]
        deltas = [group.delta.class_means[i] for group in groups]
        rows.append(row(name, percent, shown and classes_of(shown)[i][1], means, deltas))
    for figure in figures_of(first):
        means = [mean_of([run.evaluation[figure.key] for run in group.runs.values()]) for group in comparison.groups]
        deltas = [mean - means[0] for mean in means[1:]]
        totals.append(row(f"**{figure.name}**", figure.text, shown and shown[figure.key], means, deltas))
    evaluations = [*([shown] if shown else []), *(group.first.evaluation for group in comparison.groups)]
    totals.append(["parameters", *(f"{evaluation['parameters'] / 1e6:.2f} M" for evaluation in evaluations)])
    return [Table(header, rows, totals), counted(evaluations)]


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of those that are not None; None if there is none."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def cost_table(comparison: Comparison) -> list[Section]:
    """Seconds and GiB of a step for each group, means over the seeds, with ratios to the baseline; below the
    table, their definitions."""
    baseline = comparison.groups[0]
    costs = [costs_of(group) for group in comparison.groups]
    times = f"x {baseline.name}"
    header = ["cost of a step", "s, student", "s, teacher", "s, together", times, "GiB, kept", times, "waiting"]
    rows = [
        [
            group.name,
            *(decimals(cost.get(name)) for name in ("step", "teacher", "together")),
            ratio(cost.get("together"), costs[0].get("together")),
            decimals(cost.get("saved") and cost["saved"] / 2**30),
            ratio(cost.get("saved"), costs[0].get("saved")),
            decimals(cost.get("waiting")),
        ]
        for group, cost in zip(comparison.groups, costs, strict=True)
    ]
    note = (
        "Student: forward, backward, update, without validation and saving. Teacher: forward pass, once for all "
        "students of a process. Kept: by autograd, for a part of a batch, until its backward pass. Waiting for data: "
        "share of the time. Seconds are medians over the steps, on the runs' machines."
    )
    return [Table(header, rows), note]


def costs_of(group: Group) -> dict[str, float]:
    """Means over the seeds of ``FinishedRun.cost``, and the total seconds."""
    costs = [run.cost for run in group.runs.values() if run.cost]
    if not costs:
        return {}
    means = {name: statistics.mean(cost[name] for cost in costs if name in cost) for name in costs[0]}
    return means | {"together": means["step"] + means["teacher"]}


def decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def ratio(value: float | None, baseline: float | None) -> str:
    return f"{value / baseline:.2f}" if value and baseline else "-"


def terms_table(run: FinishedRun) -> Table:
    """The terms of the loss, their settings, and the share of each at the end of training."""
    task_weight = run.options.get("task_weight", 1.0)
    logged = dict.fromkeys(key.removeprefix("loss/") for row in run.metrics for key in row if key.startswith("loss/"))
    # What was logged and is no term is the loss on labels.
    labels = dict.fromkeys(logged, "" if task_weight == 1 else f"weight {task_weight}")
    settings = labels | {term["name"]: one_line(term) for term in run.terms}
    rows = [[name, text, percent(final_share(run.metrics, name))] for name, text in settings.items()]
    return Table(["term", "settings", "share (%)"], rows, texts=2)


def crops_table(run: FinishedRun) -> list[Section]:
    """The teacher's scores on training crops, and the student's if it was evaluated; below the table,
    how to read it."""
    crops, evaluation = run.teacher["crops"] | {"task": run.task.name}, run.evaluation
    columns = {"teacher, training crops": crops}
    if evaluation and evaluation.get("classes") == crops.get("classes"):
        columns[f"student, {subject_of(evaluation)}"] = evaluation
    rows = [
        [name, *(percent(classes_of(one)[i][1]) for one in columns.values())]
        for i, (name, _) in enumerate(classes_of(crops))
    ]
    totals = []
    for figure in run.task.figures:
        if figure.key in crops:
            totals.append([f"**{figure.name}**", *(figure.text(one[figure.key]) for one in columns.values())])
    entropy = f"; their mean entropy is {crops['entropy']:.2f} nats" if "entropy" in crops else ""
    others = " The student's figures are of other images." if len(columns) > 1 else ""
    return [
        Table([corner_of(crops), *columns], rows, totals),
        f"The teacher's predictions against the labels of {crops['num_crops']} training samples, scaled and cropped as "
        f"the student sees them{entropy}. Where a figure is poor here, the teacher misleads the student and its label "
        "would be right: try --teacher-scale, a lower weight, or crops as the teacher knows them." + others,
    ]


def one_line(term: Mapping) -> str:
    return ", ".join(f"{key} {value}" for key, value in flat(term).items() if key != "name")


def final_share(metrics: Sequence[Mapping], term: str) -> float | None:
    """The mean share over the last tenth of the rows that have one."""
    shares = [row[f"share/{term}"] for row in metrics if f"share/{term}" in row]
    return statistics.mean(shares[-max(1, len(shares) // 10) :]) if shares else None


# -------------------------------------------------------------------------------------------------------- reports


def write_run_report(folder: Path) -> None:
    """Write report.md, report.html and curves.png into the folder of a run, evaluated or not.

    Raises:
        FileNotFoundError, ValueError: as ``read_run``; a run without any row of metrics.
    """
    run = read_run(folder)
    png, metrics = folder / "curves.png", folder / "metrics.jsonl"
    if not png.exists() or png.stat().st_mtime < metrics.stat().st_mtime:
        from segdistill.utils.report.pictures import plot_curves  # matplotlib is slow to import

        plot_curves({folder.name: [run.metrics]}, png)
    sections = [Heading(folder.name, 1), summary_of(run)]
    primary = run.task.primary
    column = f"val/{primary.key}"
    if scores := {row["step"]: row[column] for row in run.metrics if column in row}:
        best = (max if primary.greater_is_better else min)(scores, key=scores.get)
        sections.append(f"Best validation {primary.name}: {primary.text(scores[best])}, at step {best}.")
    if stages := run.options.get("continued"):
        sections.append(continued_sentence(folder.name, stages))
    if run.environment.get("processes_before"):
        sections.append(processes_sentence(folder.name, run.environment))
    if run.evaluation:
        subject = subject_of(run.evaluation)
        sections += [Heading(f"{what_of(run.evaluation)} of {subject}"), *scores_of({subject: run.evaluation})]
        sections += [f"{run.checkpoint.name} on {run.evaluation['num_images']} images."]
    if (folder / PANELS).is_file():
        truth = "the teacher" if DATASETS[run.options["dataset"]].TRUTH == "teacher" else "truth"
        titles = ["image", truth, "student"]
        shown = panel(columns_of(folder / PANELS, titles))
        sections += [Heading("Predictions"), Picture(PANELS, ", ".join(titles), shown)]
        sections += [f"Held-out images, {truth}, the student at its best validation."]
    sections += [Heading("Terms"), terms_table(run)]
    sections += ["Share of each weighted term in the loss at the end of training."]
    sections += [cost_sentence(run)] if run.cost else []
    if run.teacher and run.teacher.get("crops"):
        sections += [Heading("The teacher as a label"), *crops_table(run)]
    sections += curve_sections({folder.name: {"": run.metrics}})
    write_report([*sections, Heading("Settings"), Settings(settings_of(run) | run.environment)], folder)


def curve_sections(groups: Mapping[str, Mapping[str, Sequence[Mapping]]]) -> list[Section]:
    """By group and run the rows of metrics.jsonl."""
    return [Heading("Curves"), Picture("curves.png", "scores, losses and shares over the steps", curves(groups))]


def write_comparison(comparison: Comparison, output: Path, num_images: int = 4) -> str:
    """Write report.md, report.html, curves.png, classes.png and panel.png to the folder ``output``.

    Args:
        num_images: rows of the panel, spaced evenly over the evaluated images.

    Returns:
        Markdown: what was trained, the paired table and its caveats.

    Raises:
        FileNotFoundError, ValueError: the evaluated images or a checkpoint cannot be read.
    """
    from segdistill.utils.report import pictures  # matplotlib is slow to import

    output.mkdir(parents=True, exist_ok=True)
    groups = {group.name: group for group in comparison.groups}
    metrics = {name: [run.metrics for run in group.runs.values()] for name, group in groups.items()}
    pictures.plot_curves(metrics, output / "curves.png")
    has_classes = bool(classes_of(comparison.groups[0].first.evaluation))
    if has_classes:
        pictures.plot_class_deltas(comparison, output / "classes.png")
    predictions = panel_of(comparison, num_images)
    pictures.draw_panel(predictions, output / "panel.png")

    baseline, *others = groups
    first = comparison.groups[0].first
    subject = subject_of(first.evaluation)
    trained = [Items([f"{name}: {summary_of(group.first)}" for name, group in groups.items()])]
    notes = Items(conclusions(comparison) + caveat_sentences(comparison.caveats))
    table = [caption_of(comparison), paired_table(comparison), notes]
    sections = [Heading(f"{'; '.join(others)} against {baseline}", 1), *trained]
    sections += [Heading(f"{first.task.primary.name} on {subject}"), *table]
    sections += [Heading(f"{what_of(first.evaluation)} of {subject}"), *class_table(comparison)]
    if has_classes:
        sections += [Picture("classes.png", "delta of each class", class_deltas(comparison))]
    sections += [Heading("Cost"), *cost_table(comparison)]
    sections += curve_sections(
        {name: {f"seed {seed}": run.metrics for seed, run in group.runs.items()} for name, group in groups.items()}
    )
    sections += [Heading(f"Predictions on {subject}")]
    sections += [Picture("panel.png", "image, truth and predictions", panel(predictions))]
    sections += [f"Images spaced evenly, not chosen; students of seed {first.options['seed']}."]
    write_report([*sections, Heading("Settings"), *settings_sections(comparison)], output)
    return markdown([*trained, *table])


def panel_of(comparison: Comparison, num_images: int) -> Panel:
    """Evenly spaced images of those that were evaluated: image, truth, teacher, and each group's first run."""
    evaluation = comparison.groups[0].first.evaluation
    dataset = build_dataset(
        evaluation["dataset"],
        evaluation["data_dir"],
        evaluation["split"],
        data_list=evaluation["data_list"],
        task=evaluation.get("task"),
    )
    mapped = evaluation["protocol"].get("class_map")
    checkpoints = {"teacher": (comparison.teacher, teachers_map(comparison))} if comparison.teacher else {}
    checkpoints |= {group.name: (group.first.checkpoint, mapped) for group in comparison.groups}
    runs = [group.first.options for group in comparison.groups]
    own = {run[key] for run in runs for key in ("network", "teacher_network") if run.get(key)}  # run in training
    titles = ["image", "truth", *checkpoints]
    if dataset.TRUTH == "teacher":
        first, _ = next(iter(checkpoints.values()))
        task_of(dataset).adopt(dataset, *load_required(first, trusted=own))
    rows = predict_rows(list(checkpoints.values()), dataset, evaluation["protocol"], num_images, own)
    if dataset.TRUTH == "teacher":
        titles.remove("truth")
        rows = [[image, *predictions] for image, _, *predictions in rows]
    task = task_of(dataset)
    legend = task.legend([one for _, *predictions in rows for one in predictions], dataset)
    pictures = []
    for image, *predictions in rows:
        pictures.append([image, *(task.picture(one, dataset) for one in predictions)])
        errors = [task.error(one, predictions[0], dataset) for one in predictions[1:]]
        if dataset.TRUTH == "labels" and errors and errors[0] is not None:
            pictures.append([np.full_like(image, 255), np.full_like(image, 255), *errors])
    return Panel(pictures, titles, legend)


def what_of(evaluation: Mapping) -> str:
    """What a table of all figures lists first."""
    return "Classes" if task_named(evaluation).per_class else "Scores"


def teachers_map(comparison: Comparison) -> str | None:
    """The teacher's class map in training."""
    return next((g.first.options["class_map"] for g in comparison.groups if g.first.options.get("class_map")), None)


def predict_rows(
    checkpoints: Sequence[tuple[Path, str | None]],
    dataset: SegmentationDataset,
    protocol: Mapping,
    num_images: int,
    trusted: Collection[str] = (),
) -> list[list[np.ndarray]]:
    """For each image: the image (H, W, 3), its truth (H, W), and the predictions (H, W) of each checkpoint.

    Each checkpoint comes with its class map, or None; ``trusted`` as in ``load_network``.
    """
    samples = [dataset[index] for index in evenly_spaced(num_images, len(dataset))]
    rows = [[sample.image.permute(1, 2, 0).numpy(), sample.label.numpy()] for sample in samples]
    device = start_device(None)
    for checkpoint, class_map in checkpoints:
        loaded = load_predictor(checkpoint, dataset, protocol, class_map, trusted=trusted, device=device)
        for row, sample in zip(rows, samples, strict=True):
            row.append(loaded.predict(sample.image))
    return rows


def settings_of(run: FinishedRun) -> dict:
    """The options that had an effect, but for the terms and what is bookkeeping."""
    idle = FREE - {"seed"}
    return {key: value for key, value in run.settings.items() if key not in idle and not key.startswith("terms.")}


def settings_sections(comparison: Comparison) -> list[Section]:
    """Each group's runs, terms and what else was varied, then what the first runs have in common."""
    firsts = [group.first for group in comparison.groups]
    common = {
        key: value
        for key, value in settings_of(firsts[0]).items()
        if all(run.settings.get(key) == value for run in firsts)
    }
    sections = []
    for group in comparison.groups:
        sections += [Heading(group.name, 3), f"Runs: {', '.join(str(run.folder) for run in group.runs.values())}"]
        sections.append(terms_table(group.first))
        if own := {key: value for key, value in settings_of(group.first).items() if key not in common}:
            sections.append(Settings(own))
    return [
        *sections,
        Heading("All groups", 3),
        f"Environment and seed of {firsts[0].folder}:",
        Settings(common | firsts[0].environment),
    ]
