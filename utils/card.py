"""The model card of a checkpoint: the README.md of its repository on the hub."""

from collections.abc import Mapping
from pathlib import Path

from segdistill.network import LoadReport
from segdistill.utils.files import read_json
from segdistill.utils.protocol import describe
from segdistill.utils.report.read import read_evaluation
from segdistill.utils.report.sections import Table, markdown_table
from segdistill.utils.report.sentences import in_words, subject_of
from segdistill.utils.tasks import task_named

TAGS = ("image-segmentation", "semantic-segmentation", "knowledge-distillation")


def model_card(checkpoint: Path, report: LoadReport, parameters: int, address: str, licence: str | None = None) -> str:
    """The card: what the network is, its figures, how to load it.

    Figures, data set and teacher are those of the files beside the checkpoint: evaluation.json if it is of this
    checkpoint, options.json of its run.

    Args:
        report: of the checkpoint.
        parameters: of the network.
        address: ``hf://USER/REPO``.
        licence: the hub's name of it.
    """
    folder = checkpoint.parent
    evaluation = read_evaluation(folder)
    if evaluation and evaluation["sha256"] != report.sha256:
        evaluation = None
    options = read_json(folder / "options.json") if (folder / "options.json").is_file() else {}
    dataset = options.get("dataset") or (evaluation or {}).get("dataset")
    head = ["---", *([f"license: {licence}"] if licence else []), "library_name: segdistill"]
    head += [
        f"pipeline_tag: {'depth-estimation' if report.config.get('depth') else 'image-segmentation'}",
        "tags:",
        *(f"- {tag}" for tag in TAGS),
        "---",
    ]
    sections = [
        "\n".join(head),
        f"# {address.rpartition('/')[2]}",
        facts(report, parameters, dataset, teacher_of(options)),
    ]
    sections += ["## Figures", figures(evaluation) if evaluation else "Not evaluated."]
    sections += ["## Use", loading(address, options.get("task"), dataset, report.config)]
    if not licence:
        sections += [
            "## Licence",
            "None is given: the owner of the weights adds one, and `license:` to this file's head.",
        ]
    return "\n\n".join(sections) + "\n"


def facts(report: LoadReport, parameters: int, dataset: str | None, teacher: str | None) -> str:
    """A table of what the network is."""
    settings = [
        f"{key}={value}" for key, value in report.config.items() if key not in ("name", "num_classes", "hf_config")
    ]
    colours = report.normalization
    shown = "{}x{}".format(*report.input_size) if report.input_size else "any size"
    convention = f"{colours.channels}, {colours.scale:g} * (x - mean) / std of 0..255" if colours else "not told"
    numbers = f", mean {numbers_of(colours.mean)}, std {numbers_of(colours.std)}" if colours else ""
    rows = [
        ["network", " ".join([without_folder(report.config["name"]), *settings])],
        ["parameters", f"{parameters:,}"],
    ]
    rows += [["classes", ", ".join(report.classes or [str(report.config["num_classes"])])]]
    rows += [["input", f"{shown}, {convention}{numbers}"]]
    rows += [["data set", dataset]] if dataset else []
    rows += [["teacher", teacher]] if teacher else []
    return markdown_table(Table(["", ""], rows, texts=2))


def without_folder(name: str) -> str:
    """A network's name; of FILE.py:CLASS without the folder, which is nobody else's business."""
    return Path(name).name if ".py:" in name else name


def numbers_of(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def teacher_of(options: Mapping) -> str | None:
    """The teacher's name, and the methods by which it taught; None if the student learned alone."""
    if not options.get("terms"):
        return None
    file = Path(options.get("T_ckpt_path") or "")
    name = without_folder(options.get("teacher_network") or file.name)
    if "snapshots" in file.parts and (cached := [part for part in file.parts if part.startswith("models--")]):
        name = "/".join(cached[-1].split("--")[1:])  # a file of the hub, in its cache
    return f"{name}, by {in_words(options['terms'])}"


def figures(evaluation: Mapping) -> str:
    """The figures of an evaluation, and what was evaluated how."""
    rows = [
        [figure.title, figure.text(evaluation[figure.key])]
        for figure in task_named(evaluation).figures
        if evaluation.get(figure.key) is not None
    ]
    how = f"{subject_of(evaluation)}, {evaluation['num_images']} images; {describe(evaluation['protocol'])}."
    return f"{markdown_table(Table(['figure', 'value'], rows))}\n\n{how}"


def loading(address: str, task: str | None, dataset: str | None, config: Mapping) -> str:
    """The lines that load it."""
    answer = (
        'depth = network(images, ["depth"]).features["depth"]'
        if config.get("depth")
        else "logits = network(images).logits"
    )
    asked = f" --task {task}" if task else ""
    return f"""```python
from segdistill.network import load_network
network, report = load_network("{address}")
images = report.normalization(images)  # (N, 3, H, W) RGB, 0..255
{answer}
```

    pip install segdistill[hub]
    segdistill eval --dataset {dataset or "NAME"}{asked} --data-dir DIR --checkpoint {address}"""
