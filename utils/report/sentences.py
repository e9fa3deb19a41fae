"""What a report says in words: captions, conclusions no bolder than the data, caveats."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from segdistill.dataset import DATASETS
from segdistill.network import NETWORKS
from segdistill.network.cost import macs_of
from segdistill.network.weights.shapes import blueprint
from segdistill.utils.losses import DISTILLATION_LOSSES
from segdistill.utils.protocol import describe
from segdistill.utils.report.compare import Caveats, Comparison, Group
from segdistill.utils.report.read import FinishedRun
from segdistill.utils.tasks import task_named


def delta_of(group: Group) -> str:
    """Mean and interval, "+1.23 ± 0.45"."""
    if group.delta is None:
        return "-"
    text, margin = group.task.primary.text, group.delta.margin
    mean = text(group.delta.mean, "+")
    return mean if margin is None else f"{mean} ± {text(margin)}"


def subject_of(evaluation: Mapping) -> str:
    """The evaluated data: "camvid test", or "camvid night.txt" for a data list."""
    data_list = evaluation["data_list"]
    return f"{evaluation['dataset']} {Path(data_list).name if data_list else evaluation['split']}"


def caption_of(comparison: Comparison) -> str:
    """Caption of a comparison: images, protocol, number of seeds, and other differences than the terms."""
    evaluation = comparison.groups[0].first.evaluation
    parts = [
        f"{task_named(evaluation).primary.title} on {subject_of(evaluation)}",
        f"{evaluation['num_images']} images",
    ]
    parts.append(describe(evaluation["protocol"]))
    n = len(comparison.groups[0].runs)
    varied = f"; groups differ in {', '.join(comparison.varied)} as well" if comparison.varied else ""
    return f"{', '.join(parts)}; n = {n}{varied}"


def conclusions(comparison: Comparison) -> list[str]:
    """Conclusion from the deltas, one sentence a group; a claim needs three seeds."""
    baseline, *groups = comparison.groups
    n = len(baseline.runs)
    if comparison.caveats.one_seed:
        return ["One seed has no spread: nothing follows for other seeds. Train three or more."]
    sentences, several = [], len(groups) > 1
    for group, p in zip(groups, comparison.p_values, strict=True):
        outcome = "not distinguishable from zero at this n"
        if n < 3:
            outcome = "two seeds are too few for a claim: train three or more"
        elif p < 0.05:
            word = "better" if group.task.primary.is_better(group.delta.mean, 0) else "worse"
            outcome = f"{word} than {baseline.name} by more than the choice of seeds explains"
        corrected = f"; after Holm p {p_text(p)}" if several and n > 2 else ""
        sentences.append(f"{group.name}: {delta_of(group)} (95 % interval of {n} paired seeds{corrected}), {outcome}.")
    if several:
        sentences.append(
            f"Each interval stands by itself; better and worse follow p, corrected by Holm for {len(groups)} "
            f"comparisons with {baseline.name}, because one of many may exclude zero by chance."
        )
    return sentences


def p_text(p: float) -> str:
    """ "= 0.026" or "< 0.001"."""
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"


def caveat_sentences(caveats: Caveats) -> list[str]:
    """The caveats, one sentence each."""
    sentences = []
    if caveats.chosen_on_evaluated:
        sentences.append("The checkpoints were chosen on these images, in every group: all figures are a little high.")
    if caveats.times:
        listed = ", ".join(f"{name} {time:.2f}" for name, time in caveats.times.items())
        sentences.append(f"Not at equal time; seconds as multiples of the baseline's: {listed}.")
    sentences += [continued_sentence(name, stages) for name, stages in caveats.continued.items()]
    sentences += [processes_sentence(name, environment) for name, environment in caveats.processes.items()]
    for key, values in caveats.environments.items():
        listed = "; ".join(f"{value} ({', '.join(names)})" for value, names in values.items())
        sentences.append(f"NOTE: the environments differ in {key}: {listed}.")
    return sentences


def continued_sentence(name: str, stages: Sequence[Mapping]) -> str:
    listed = ", ".join(f"at step {stage['step']} to {stage['num_steps']} steps" for stage in stages)
    return f"NOTE: {name} was continued {listed}: its learning rates are not those of a run in one go."


def processes_sentence(name: str, environment: Mapping) -> str:
    stages = [f"{stage['processes']} to step {stage['step']}" for stage in environment["processes_before"]]
    return (
        f"NOTE: {name} was trained by {', '.join(stages)}, then by {environment['processes']} processes: "
        "BatchNorm that is not synchronised saw batches of other sizes."
    )


def in_words(terms: Sequence[Mapping]) -> str:
    """What the methods of terms are called: "pixel-wise distillation (pi) and pair-wise distillation (pa)"."""
    *first, last = map(term_in_words, terms)
    return f"{', '.join(first)} and {last}" if first else last


def term_in_words(term: Mapping) -> str:
    """The first words of its method's docstring; of a method in a user's file its name alone."""
    if term.get("method") not in DISTILLATION_LOSSES:
        return term["name"]
    words = DISTILLATION_LOSSES[term["method"]].__doc__.strip().partition(":")[0].partition(" (")[0]
    usual = words[0].lower() + words[1:] if words[1:].islower() else words  # PKD stays
    return usual if usual.casefold() == term["name"].casefold() else f"{usual} ({term['name']})"


def size_of(run: FinishedRun) -> str:
    """ "0.19 M parameters, 0.31 G MACs at 128x256"; "" if the network is another library's and was not evaluated."""
    options, evaluation = run.options, run.evaluation or {}
    parameters, macs = evaluation.get("parameters"), ""
    classes = getattr(DATASETS.get(options["dataset"]), "CLASSES", ())
    described = {"name": options["network"], "num_classes": len(classes), **options.get("network_options", {})}
    config = evaluation.get("network", described)
    known = config.get("num_classes") or config.get("depth")
    if config["name"] in NETWORKS and known:  # others would run a user's code or fetch something
        size = tuple(options.get("input_size") or (512, 1024))
        parameters, macs = parameters_and_macs(json.dumps(config), size)
        macs = f", {macs / 1e9:.2f} G MACs at {size[0]}x{size[1]}"
    return f"{parameters / 1e6:.2f} M parameters{macs}" if parameters else ""


@functools.cache  # the runs of a comparison have one network
def parameters_and_macs(config: str, size: tuple[int, int]) -> tuple[int, int]:
    """Parameters of a network, and MACs at ``size`` (H, W), from its configuration as JSON."""
    network = blueprint(json.loads(config))
    return sum(parameter.numel() for parameter in network.parameters()), macs_of(network, size)


def summary_of(run: FinishedRun) -> str:
    """Sentence: network and its size, number of steps, data and teacher."""
    network, steps, samples, dataset = (run.options[key] for key in ("network", "num_steps", "batch_size", "dataset"))
    size = size_of(run)
    training = f"{network}{f' ({size})' if size else ''}: {steps} steps of {samples} samples of {dataset}"
    if run.terms:
        training += f", distilled by {in_words(run.terms)}"
    if not run.teacher:
        return f"{training}, without a teacher."
    primary, num_images = run.task.primary, run.teacher["num_images"]
    score = run.teacher[primary.key]
    if score is None and DATASETS[dataset].TRUTH == "teacher":
        return f"{training}, from {run.teacher['file']}, whose predictions are the labels of the held-out images."
    if score is None:
        return f"{training}, from {run.teacher['file']}, a network without {run.task.feature}."
    figure = f"{primary.text(score)} {primary.name}"
    return f"{training}, from {run.teacher['file']} ({figure} on {num_images} validation images)."


def cost_sentence(run: FinishedRun) -> str:
    cost = run.cost
    teacher = f" and {cost['teacher']:.3f} s for the teacher" if cost["teacher"] else ""
    kept = f"{cost['saved'] / 2**30:.3f} GiB"
    return (
        f"A step took {cost['step']:.3f} s for the student{teacher}, and kept {kept} for its backward pass. "
        f"{run.options['num_steps']} steps took {run.seconds:.1f} s, without validation, saving and waiting for data."
    )
