"""What runs show to people: IoU tables, the student alone against distilled, curves and predictions.

    python -m segdistill.utils.report --alone RUN [RUN ...] --distilled RUN [RUN ...] --teacher RUN --output DIR

Runs pair up by their seed, and the comparison must be fair: the two sides differ in the distillation alone.
"""

import argparse
import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from scipy.special import stdtrit

from segdistill.dataset import SegmentationDataset, build_dataset
from segdistill.network import NETWORKS
from segdistill.utils.checkpoint import load_network
from segdistill.utils.distributed import start_device
from segdistill.utils.evaluate import predict
from segdistill.utils.losses import DISTILLATION_LOSSES
from segdistill.utils.options import make_parser
from segdistill.utils.run import FREE_ON_RESUME
from segdistill.utils.visualize import draw_panel, plot_curves

# Options that say where and how a run was done, not what was done.
BOOKKEEPING = FREE_ON_RESUME | {"save_name", "seed"}

# ------------------------------------------------------------------------------------------------- reading a run


@dataclass
class FinishedRun:
    """The files of a run's folder as data.

    ``evaluation`` is None if eval.py has not seen the present checkpoint, ``teacher`` if the student learned alone.
    """

    folder: Path
    options: dict
    environment: dict
    metrics: list[dict]
    evaluation: dict | None
    teacher: dict | None

    @property
    def checkpoint(self) -> Path:
        """The file that was evaluated."""
        return self.folder / Path(self.evaluation["checkpoint"]).name

    @property
    def terms(self) -> list[str]:
        """The flags of the distillation losses that were on."""
        return [flag for flag in DISTILLATION_LOSSES if self.options.get(flag)]


def read_run(folder: Path) -> FinishedRun:
    """Raises FileNotFoundError if the folder holds no run, else as ``read_metrics``."""
    for name in ("options.json", "environment.json", "metrics.jsonl"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {folder / name}: {folder} is not the folder of a run")
    return FinishedRun(
        folder,
        read_json(folder / "options.json"),
        read_json(folder / "environment.json"),
        read_metrics(folder),
        read_evaluation(folder),
        read_json(folder / "teacher.json"),
    )


def read_json(path: Path) -> dict | None:
    """The content of a file, None if there is none."""
    return json.loads(path.read_text()) if path.is_file() else None


def read_metrics(run: Path) -> list[dict]:
    """The rows of metrics.jsonl, one a step, in the order of the steps.

    A continued run repeats steps: the last row counts. A killed one leaves half a row, which is passed over.

    Raises:
        FileNotFoundError: no metrics.jsonl in the folder.
        ValueError: a line before the last that is no row.
    """
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()
    rows = {}
    for number, line in enumerate(lines, 1):
        try:
            # The first row of a continued run follows the half row on its line; rows are flat, so "{" begins one.
            row = json.loads(line[max(line.rfind("{"), 0) :])
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number} is no row of metrics: {line!r}") from error
        # A step with a validation has two rows, losses and scores.
        rows[row["step"]] = rows.get(row["step"], {}) | row
    return [rows[step] for step in sorted(rows)]


def read_evaluation(folder: Path) -> dict | None:
    """The content of evaluation.json; None if there is none, or if its checkpoint has changed since."""
    evaluation = read_json(folder / "evaluation.json")
    checkpoint = folder / Path(evaluation["checkpoint"]).name if evaluation else None
    current = checkpoint and checkpoint.is_file() and sha256_of(checkpoint) == evaluation.get("sha256")
    return evaluation if current else None


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --------------------------------------------------------------------------------------------------------- tables


def percent(value: float | None, sign: str = "") -> str:
    """0.61383 as "61.38", with sign="+" as "+61.38"; None as "-"."""
    return "-" if value is None else f"{100 * value:{sign}.2f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """First column to the left, the others to the right; padded, so that a terminal shows it well too."""
    widths = [max(3, *(len(row[i]) for row in (header, *rows))) for i in range(len(header))]
    rule = ["-" * width for width in widths]
    rule[1:] = [f"{line[1:]}:" for line in rule[1:]]
    aligned = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in (header, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in aligned)


def iou_table(evaluations: Mapping[str, Mapping]) -> str:
    """Markdown: IoU (%) a class and a run, then the means; "-" for a class that does not occur.

    Args:
        evaluations: the content of evaluation.json by the run's name.

    Raises:
        ValueError: the evaluations are not of the same images and classes.
    """
    check_same_images(evaluations)
    columns = list(evaluations.values())
    rows = [[name, *(percent(column["iou"][i]) for column in columns)] for i, name in enumerate(columns[0]["classes"])]
    for key, name in (("mean_iou", "mIoU"), ("pixel_accuracy", "pixel accuracy"), ("class_accuracy", "class accuracy")):
        rows.append([f"**{name}**", *(percent(column[key]) for column in columns)])
    rows.append(["parameters", *(f"{column['parameters'] / 1e6:.2f} M" for column in columns)])
    return markdown_table(["IoU (%)", *evaluations], rows)


def paired_table(baseline: Mapping[int, Mapping], distilled: Mapping[int, Mapping]) -> str:
    """Markdown: mIoU (%) alone and distilled, seed by seed, the spread, and what it allows to conclude.

    Args:
        baseline, distilled: the content of evaluation.json by the run's seed.

    Raises:
        ValueError: the two do not have the same seeds, or the evaluations are not of the same images and classes.
    """
    if not baseline or baseline.keys() != distilled.keys():
        raise ValueError(
            f"runs pair up by seed, but seeds alone are {sorted(baseline)}, distilled {sorted(distilled)}: "
            "train the missing ones, or leave their partners out"
        )
    seeds = sorted(baseline)
    sides = {"alone": baseline, "distilled": distilled}
    check_same_images({f"{side}, seed {seed}": sides[side][seed] for side in sides for seed in seeds})
    alone, taught = ([evaluations[seed]["mean_iou"] for seed in seeds] for evaluations in (baseline, distilled))
    deltas = [after - before for before, after in zip(alone, taught, strict=True)]

    def row(name: str, before: float, after: float, delta: float) -> list[str]:
        return [name, percent(before), percent(after), percent(delta, "+")]

    rows = [row(str(seed), *values) for seed, *values in zip(seeds, alone, taught, deltas, strict=True)]
    rows.append(row("mean", *map(statistics.mean, (alone, taught, deltas))))
    spreads = [statistics.stdev(values) if len(seeds) > 1 else None for values in (alone, taught, deltas)]
    rows.append(["std", *map(percent, spreads)])
    table = markdown_table(["seed", "alone", "distilled", "delta"], rows)

    first = baseline[seeds[0]]
    void = ", predictions on void counted as errors" if first["count_void"] else ""
    caption = f"mIoU (%) on {first['dataset']} {first['split']}, {first['num_images']} images{void}; n = {len(seeds)}"
    return f"{caption}\n\n{table}\n\n{conclusion(deltas)}"


def conclusion(deltas: Sequence[float]) -> str:
    """What the deltas of the pairs (mIoU, 0..1) allow to say: the 95 % interval of their mean by Student's t."""
    n, mean = len(deltas), statistics.mean(deltas)
    if n == 1:
        return (
            f"One seed gives {percent(mean, '+')} and no spread: nothing follows for other seeds. Train three or more."
        )
    margin = float(stdtrit(n - 1, 0.975)) * statistics.stdev(deltas) / sqrt(n)
    interval = f"Mean delta {percent(mean, '+')} ± {percent(margin)} (95 % interval of {n} paired seeds)"
    if abs(mean) <= margin:
        return f"{interval}: not distinguishable from zero at this n."
    return f"{interval}: distilled is {'better' if mean > 0 else 'worse'} by more than the choice of seeds explains."


# ------------------------------------------------------------------------------------------------ fair comparison


def differences(first: Mapping, other: Mapping) -> str:
    """The keys with different values, as "key: value and value; ..."; empty if there are none."""
    keys = sorted(key for key in first.keys() | other.keys() if first.get(key) != other.get(key))
    return "; ".join(f"{key}: {first.get(key)} and {other.get(key)}" for key in keys)


def check_same_images(evaluations: Mapping[str, Mapping]) -> None:
    """Raise ValueError unless all evaluations are of the same images and classes, counted in the same way."""
    keys = ("dataset", "split", "num_images", "count_void", "classes")
    subjects = {name: {key: evaluation[key] for key in keys} for name, evaluation in evaluations.items()}
    first = next(iter(subjects))
    for name, subject in subjects.items():
        if problems := differences(subjects[first], subject):
            raise ValueError(f"the evaluations of {first} and {name} cannot be compared, they differ in {problems}")


def by_seed(runs: Sequence[FinishedRun]) -> dict[int, FinishedRun]:
    """The runs in the order of their seeds. Raises ValueError if a seed occurs twice."""
    seeds = {run.options["seed"]: run for run in runs}
    if len(seeds) < len(runs):
        raise ValueError(f"a seed occurs twice among {', '.join(str(run.folder) for run in runs)}")
    return dict(sorted(seeds.items()))


def check_fair(alone: Sequence[FinishedRun], distilled: Sequence[FinishedRun]) -> None:
    """Raise ValueError unless every run is complete, stands on its side, and shares all settings that it should."""
    for run in (*alone, *distilled):
        check_complete(run)
    for run in alone:
        if run.terms:
            raise ValueError(f"{run.folder} was distilled by {' + '.join(run.terms)}: it is no student alone")
        check_same_settings(alone[0], run, BOOKKEEPING | distillation_options())
    for run in distilled:
        if not run.terms:
            raise ValueError(f"{run.folder} is no distilled student: it used none of {', '.join(DISTILLATION_LOSSES)}")
        check_same_settings(alone[0], run, BOOKKEEPING | distillation_options())
        check_same_settings(distilled[0], run, BOOKKEEPING)


def check_complete(run: FinishedRun) -> None:
    last, goal = run.metrics[-1]["step"] if run.metrics else 0, run.options["num_steps"]
    if last < goal:
        raise ValueError(f"{run.folder} stopped at step {last} of {goal}: train.py --resume continues it")
    if run.evaluation is None:
        raise ValueError(
            f"{run.folder} has no evaluation of its present checkpoint: "
            f"eval.py --checkpoint {run.folder}/best.pth --output {run.folder}/evaluation.json"
        )


def check_same_settings(first: FinishedRun, other: FinishedRun, ignored: set[str]) -> None:
    settings = [
        {key: value for key, value in run.options.items() if key not in ignored}
        | {"evaluated checkpoint": run.checkpoint.name}
        for run in (first, other)
    ]
    if problems := differences(*settings):
        raise ValueError(f"{first.folder} and {other.folder} cannot be compared fairly, they differ in {problems}")


def distillation_options() -> set[str]:
    """The options in which a distilled run may differ from the student alone."""
    _, requires = make_parser()
    settings = {name for name, switch in requires.items() if switch in DISTILLATION_LOSSES}
    return settings | DISTILLATION_LOSSES.keys() | {"T_ckpt_path", "terms"}


def check_teacher(distilled: Sequence[FinishedRun], checkpoint: Path | None) -> None:
    """Raise ValueError unless all runs learned from one file, ``checkpoint`` if that is given."""
    files = {run.teacher["sha256"]: f"{run.teacher['file']} (of {run.folder})" for run in distilled}
    if checkpoint:
        files.setdefault(sha256_of(checkpoint), f"{checkpoint} (of --teacher)")
    if len(files) > 1:
        raise ValueError(f"the distilled runs need one teacher, but these files differ: {', '.join(files.values())}")


def caveats(runs: Sequence[FinishedRun]) -> list[str]:
    """What a reader must know beside the figures, a sentence each."""
    first = runs[0]
    sentences = []
    if first.evaluation["split"] == "val" and first.checkpoint.name == "best.pth":
        sentences.append("The checkpoints were chosen on these images, on both sides: all figures are a little high.")
    for run in runs[1:]:
        same = {"date": first.environment.get("date")}
        if problems := differences(first.environment, run.environment | same):
            sentences.append(f"NOTE: the environments of {first.folder} and {run.folder} differ in {problems}.")
    return sentences


# -------------------------------------------------------------------------------------------------------- reports


def write_run_report(folder: Path) -> None:
    """Write report.md and curves.png into the folder of a run, evaluated or not.

    Raises:
        FileNotFoundError, ValueError: as ``read_run``; a run without any row of metrics.
    """
    run = read_run(folder)
    plot_curves({folder.name: run.metrics}, folder / "curves.png")
    sections = [f"# {folder.name}", summary_of(run)]
    if scores := {row["step"]: row["val/mean_iou"] for row in run.metrics if "val/mean_iou" in row}:
        best = max(scores, key=scores.get)
        sections.append(f"Best validation mIoU: {percent(scores[best])}, at step {best}.")
    if run.evaluation:
        name = f"{run.evaluation['dataset']} {run.evaluation['split']}"
        sections += ["## Classes", iou_table({name: run.evaluation})]
        sections += [f"{run.checkpoint.name} on {run.evaluation['num_images']} images."]
    sections += ["## Curves", "![losses and mIoU over the steps](curves.png)", "## Settings", settings_of(run)]
    write_sections(folder / "report.md", sections)


def write_paired_report(
    alone: Sequence[Path], distilled: Sequence[Path], teacher: Path | None, output: Path, num_images: int = 4
) -> str:
    """Compare runs by seed; writes report.md, curves.png and panel.png to ``output``.

    Args:
        alone, distilled: folders of runs.
        teacher: the folder of a run or a checkpoint; None leaves it out.
        num_images: rows of the panel, spaced evenly over the evaluated split.

    Returns:
        Markdown: the paired table and what must be known beside it.

    Raises:
        FileNotFoundError, ValueError: a file is missing or the comparison would not be fair.
    """
    alone, distilled = (by_seed([read_run(folder) for folder in folders]) for folders in (alone, distilled))
    if teacher and teacher.is_dir():
        teacher = teacher / "best.pth"
    check_fair(list(alone.values()), list(distilled.values()))
    check_teacher(list(distilled.values()), teacher)
    table = paired_table(*({seed: run.evaluation for seed, run in side.items()} for side in (alone, distilled)))
    runs = {}
    for seed in alone:
        runs |= {f"alone, seed {seed}": alone[seed], f"distilled, seed {seed}": distilled[seed]}
    comparison = "\n\n".join([table, *caveats(list(runs.values()))])

    columns = {name: run.evaluation for name, run in runs.items()}
    seed, first = min(alone), distilled[min(alone)]
    checkpoints = {"student alone": alone[seed].checkpoint, "distilled": first.checkpoint}
    if teacher:
        checkpoints = {"teacher": teacher, **checkpoints}
        evaluation = read_json(teacher.parent / "evaluation.json")
        if evaluation and evaluation.get("sha256") == sha256_of(teacher):
            columns = {"teacher": evaluation, **columns}
    per_class = iou_table(columns)

    output.mkdir(parents=True, exist_ok=True)
    plot_curves({name: runs[name].metrics for name in sorted(runs)}, output / "curves.png")
    dataset = build_dataset(first.evaluation["dataset"], first.options["data_dir"], first.evaluation["split"])
    draw_predictions(checkpoints, dataset, num_images, output / "panel.png")
    folders = ", ".join(f"{run.folder} ({name})" for name, run in runs.items())
    sections = [f"# {first.options['network']} on {first.options['dataset']}: alone and distilled", summary_of(first)]
    sections += [comparison, "## Classes", per_class, "## Curves", "![losses and mIoU over the steps](curves.png)"]
    sections += ["## Predictions", "![image, truth and predictions](panel.png)"]
    sections += [f"Images spaced evenly over the {dataset.split} split, not chosen; students of seed {seed}."]
    sections += ["## Settings", f"Runs: {folders}. They differ in seeds and distillation; these are {first.folder}'s:"]
    write_sections(output / "report.md", [*sections, settings_of(first)])
    return comparison


def draw_predictions(
    checkpoints: Mapping[str, Path], dataset: SegmentationDataset, num_images: int, path: Path
) -> None:
    """A panel of evenly spaced images: image, truth, and what each checkpoint predicts."""
    num_images = min(num_images, len(dataset))
    samples = [dataset[i * len(dataset) // num_images] for i in range(num_images)]
    rows = [[sample.image.permute(1, 2, 0).numpy(), sample.label.numpy()] for sample in samples]
    for checkpoint in checkpoints.values():
        network, report = load_network(checkpoint)
        network.to(start_device(None))
        for row, sample in zip(rows, samples, strict=True):
            row.append(predict(network, sample.image[None], report.normalization, sample.label.shape)[0].numpy())
    draw_panel(rows, ["image", "truth", *checkpoints], path, dataset.CLASSES, dataset.PALETTE)


def summary_of(run: FinishedRun) -> str:
    """What was trained, for how long, on what, and by which teacher."""
    network = " ".join(filter(None, (run.options["network"], run.options["backbone"])))
    steps, samples, dataset = (run.options[key] for key in ("num_steps", "batch_size", "dataset"))
    training = f"{network}: {steps} steps of {samples} samples of {dataset}"
    if not run.terms:
        return f"{training}, without a teacher."
    mean_iou, num_images = percent(run.teacher["mean_iou"]), run.teacher["num_images"]
    return (
        f"{training}, distilled by {' + '.join(run.terms)} from {run.teacher['file']} "
        f"({mean_iou} mIoU on {num_images} validation images)."
    )


def settings_of(run: FinishedRun) -> str:
    """A block of the options that had an effect, and of the environment."""
    _, requires = make_parser()
    idle = {name for name, switch in requires.items() if not run.options[switch]}
    idle |= {"p", "q"} if NETWORKS[run.options["network"]].takes_backbone else {"backbone", "activation"}
    idle |= {"momentum"} if run.options["optimizer"] == "adam" else set()
    idle |= BOOKKEEPING - {"seed"} | {"terms", "memory_format"}
    settings = {key: value for key, value in run.options.items() if key not in idle and value not in (None, False)}
    width = max(map(len, settings))
    lines = [f"{key:{width}}  {value}" for key, value in (settings | run.environment).items()]
    return "\n".join(["```", *lines, "```"])


def write_sections(path: Path, sections: Sequence[str]) -> None:
    """Write by rename, so that a reader never sees half a report."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("\n\n".join(sections) + "\n")
    temporary.replace(path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m segdistill.utils.report", description=__doc__.splitlines()[0])
    parser.add_argument("--alone", type=Path, nargs="+", required=True, metavar="RUN", help="folders of runs")
    parser.add_argument("--distilled", type=Path, nargs="+", required=True, metavar="RUN", help="of the same seeds")
    parser.add_argument("--teacher", type=Path, metavar="RUN", help="the teacher's folder, or its checkpoint")
    parser.add_argument("--output", type=Path, default=Path("snapshots/report"), metavar="FOLDER")
    parser.add_argument("--images", type=int, default=4, help="rows of the panel of predictions")
    options = parser.parse_args(argv)
    if options.images < 1:
        parser.error(f"--images must be 1 or more, not {options.images}")
    print(write_paired_report(options.alone, options.distilled, options.teacher, options.output, options.images))
    print(f"\n{options.output}/report.md shows classes, curves and predictions.")


if __name__ == "__main__":
    main()
