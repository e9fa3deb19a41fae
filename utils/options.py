"""The command line of train.py. A flag that would be ignored is an error, and so is one that contradicts another."""

import argparse
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from segdistill.dataset import DATASETS
from segdistill.libs import NORMS
from segdistill.network import HIDDEN, NETWORKS, SegmentationNetwork, network_class
from segdistill.network.settings import describe_settings, parse_settings, settings_of
from segdistill.utils.flags import Parser, add_switch, count, folder_name, number, size
from segdistill.utils.losses import DISTILLATION_LOSSES, Term
from segdistill.utils.tasks import TASKS

# Options that say where and how a run is done and not what: they may change when it is continued.
BOOKKEEPING = {
    *("save_name", "snapshot_dir", "resume", "check", "device", "num_workers", "preload", "save_every", "log_every"),
    *("data_dir", "data_list", "val_list", "unlabelled_list", "cache_dir", "teacher_cache"),
    *("T_ckpt_path", "S_ckpt_path", "student_pretrain_model_imgnet"),
}
# Options that concern the teacher alone: without one they have no effect.
TEACHING = frozenset(
    {
        *("T_ckpt_path", "teacher_network", "teacher_options", "class_map", "teacher_scale"),
        *("teacher_normalization", "teacher_stride", "teacher_bf16", "teacher_compile", "teacher_cache"),
    }
)
OHEM = {"threshold": 0.7, "min_kept": 100_000}
positive, weight = number(float, above=0), number(float, least=0)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="train.py",
        usage="train.py [options] [--METHOD [key=value ...]] ...",
        description="Train a segmentation network, alone or distilled from a teacher.",
        epilog="--METHOD [key=value ...] adds a distillation term, as often as given: --pi weight=80 --cwd on=context. "
        "--list-methods names them. Defaults marked (recipe) are the data set's.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=41, width=120),
    )
    add_data_flags(parser.add_argument_group("data"))
    add_student_flags(parser.add_argument_group("student"))
    add_loss_flags(parser.add_argument_group("losses"))
    for flag in DISTILLATION_LOSSES:
        parser.add_argument(f"--{flag}", action=AddTerm, nargs="*", dest="terms", default=[], help=argparse.SUPPRESS)
    add_optimisation_flags(parser.add_argument_group("optimisation"))
    add_run_flags(parser.add_argument_group("run"))
    return parser


def add_data_flags(data: argparse._ArgumentGroup) -> None:
    names = ", ".join(sorted(DATASETS))
    data.add_argument("--dataset", default="scenes", choices=sorted(DATASETS), metavar="NAME", help=f"(scenes) {names}")
    data.add_argument("--task", choices=sorted(TASKS), help="that its labels are read for (the data set's first)")
    data.add_argument("--data-dir", metavar="DIR", help="folder of the data set")
    data.add_argument("--data-list", metavar="FILE", help="'image label' lines in place of the training split")
    data.add_argument("--val-list", metavar="FILE", help="the same in place of the split that validates")
    data.add_argument("--input-size", type=size, metavar="H,W", help="training crop (recipe)")
    add_switch(data, "--random-scale", "scale each sample by a factor in --scale-range (recipe)", None)
    data.add_argument("--scale-range", type=positive, nargs=2, metavar=("MIN", "MAX"), help="(recipe)")
    add_switch(data, "--random-mirror", "mirror half of the samples (recipe)", None)
    data.add_argument("--num-labels", type=count, metavar="N", help="keep the labels of N images, evenly spaced (all)")
    data.add_argument("--unlabelled-list", metavar="FILE", help="images without labels, one a line, to be distilled")
    data.add_argument(
        "--unlabelled-share", type=number(float, above=0), metavar="S", help="their part of every batch (0.5)"
    )
    add_switch(data, "--preload", "decode the data set once and keep it in memory")
    data.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help="decode the data set once and keep it in files there"
    )
    data.add_argument("--num-workers", type=number(int, 0), default=2, metavar="N", help="loader processes")


def add_student_flags(student: argparse._ArgumentGroup) -> None:
    norms = ", ".join(sorted(NORMS.keys() - {"batch_norm"}))
    student.add_argument(
        "--network",
        default="pspnet",
        metavar="NAME",
        help=f"(pspnet) or {', '.join(sorted(NETWORKS.keys() - {'pspnet'}))}; torchvision:, timm:, smp:, hf:NAME; "
        "FILE.py:CLASS",
    )
    student.add_argument("--network-options", nargs="+", default=[], metavar="key=value", help="the network's own")
    student.add_argument(
        "--norm", default="batch_norm", choices=sorted(NORMS), metavar="NAME", help=f"(batch_norm) or {norms}"
    )
    student.add_argument("--student-pretrain-model-imgnet", metavar="FILE", help="ImageNet weights of the backbone")
    student.add_argument("--S_ckpt_path", metavar="FILE", help="a checkpoint of the whole student to start from")


def add_loss_flags(loss: argparse._ArgumentGroup) -> None:
    loss.add_argument("--T_ckpt_path", metavar="FILE", help="the teacher; its network is read from the file")
    loss.add_argument("--class-map", metavar="FILE", help="'teacher class -> class of the data set' lines, or -> none")
    loss.add_argument(
        "--teacher-scale", type=positive, metavar="S", help="of the images that the teacher sees (the file's, or 1)"
    )
    loss.add_argument(
        "--teacher-network", metavar="NAME", help="as --network, of a file that does not say it, or of none"
    )
    loss.add_argument("--teacher-options", nargs="+", default=[], metavar="KEY=V", help="its own: pretrained=true")
    loss.add_argument(
        "--teacher-normalization", metavar="NAME", help="its input: imagenet, unit, caffe, half (the file's)"
    )
    loss.add_argument(
        "--teacher-stride", type=count, metavar="S", help="answer at this stride where its maps are finer (its own)"
    )
    add_switch(loss, "--teacher-bf16", "bfloat16 autocast of the teacher alone (as the student)", None)
    add_switch(loss, "--teacher-compile", "torch.compile, which folds BatchNorm too")
    loss.add_argument("--teacher-cache", type=Path, metavar="DIR", help="keep its answers there; with --views")
    loss.add_argument("--views", type=count, metavar="K", help="after K epochs the samples come as they did before")
    loss.add_argument("--task-weight", type=weight, default=1.0, metavar="W", help="of the labels; 0 needs none (1)")
    loss.add_argument("--aux-weight", type=weight, metavar="W", help="of the auxiliary head, where there is one (0.4)")
    loss.add_argument("--ohem", nargs="*", metavar="key=value", help="hard pixels only: threshold=0.7 min_kept=100000")
    loss.add_argument("--list-methods", nargs="?", const="", metavar="NAME", help="print the distillation methods")
    loss.add_argument(
        "--also",
        action="append",
        type=also,
        default=[],
        metavar="NAME=METHODS",
        help="another student, from the same batches and teacher: cwd='--cwd weight=3'",
    )


def add_optimisation_flags(optimisation: argparse._ArgumentGroup) -> None:
    optimisation.add_argument("--num-steps", type=count, metavar="N", help="training steps (recipe)")
    optimisation.add_argument("--batch-size", type=count, metavar="N", help="of all processes together (recipe)")
    optimisation.add_argument("--accumulate", type=count, default=1, metavar="N", help="parts of a batch in turn (1)")
    optimisation.add_argument("--optimizer", choices=("adam", "sgd"), help="(recipe)")
    optimisation.add_argument("--lr-g", type=positive, metavar="LR", help="learning rate (recipe)")
    optimisation.add_argument("--momentum", type=number(float, 0, 1), metavar="M", help="of sgd (0.9)")
    optimisation.add_argument("--weight-decay", type=weight, metavar="W", help="(recipe)")
    optimisation.add_argument("--power", type=weight, default=0.9, metavar="P", help="lr * (1 - step/steps)^P (0.9)")
    optimisation.add_argument("--clip-norm", type=positive, metavar="X", help="greatest norm of the gradient")
    optimisation.add_argument("--ema", type=number(float, 0, 1), metavar="D", help="keep a moving average of weights")
    add_switch(optimisation, "--bf16", "bfloat16 autocast; losses stay in float32")
    add_switch(optimisation, "--fp16", "float16 autocast with a gradient scaler")
    optimisation.add_argument("--seed", type=number(int, 0), default=0, metavar="N", help="of all that is random (0)")


def add_run_flags(run: argparse._ArgumentGroup) -> None:
    run.add_argument("--snapshot-dir", type=Path, default=Path("snapshots"), metavar="DIR", help="where runs are kept")
    run.add_argument("--save-name", type=folder_name, metavar="NAME", help="the run's folder (made from the options)")
    add_switch(run, "--resume", "continue the run in that folder, if there is one")
    run.add_argument("--save-every", type=count, default=200, metavar="N", help="steps between checkpoints (200)")
    run.add_argument("--val-every", type=count, default=1000, metavar="N", help="steps between validations (1000)")
    run.add_argument("--log-every", type=count, default=20, metavar="N", help="steps between rows of metrics (20)")
    run.add_argument("--device", help="cuda if there is one, else cpu")
    add_switch(run, "--channels-last", "channels_last memory format (true)", default=True)
    add_switch(run, "--deterministic", "the same bits on CUDA too, slower")
    add_switch(run, "--check", "check options, data, networks and teacher, and stop before the first step")


def also(text: str) -> tuple[str, list[str]]:
    """``NAME=METHODS`` to the name of a run and its words."""
    name, sign, methods = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"expected NAME=METHODS such as cwd='--cwd weight=3', not {text!r}")
    return folder_name(name), methods.split()


class AddTerm(argparse.Action):
    """Every occurrence of --METHOD key=value ... adds a method and its settings."""

    def __call__(self, parser, options, words, flag=None):
        method = flag.removeprefix("--")
        try:
            settings = parse_settings(DISTILLATION_LOSSES[method], words, flag)
        except ValueError as error:
            parser.error(str(error))
        options.terms = [*options.terms, (method, settings)]


def parse_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse, check and complete; exits with one line that names the flag and the remedy."""
    parser = make_parser()
    options = parser.parse_args(argv)
    if options.list_methods is not None:
        try:
            print(describe_methods(options.list_methods))
        except ValueError as error:
            parser.error(str(error))
        parser.exit()
    del options.list_methods

    # argparse fills in a default only where the namespace has no value yet, so what is not None was given.
    blank = argparse.Namespace(**{**dict.fromkeys(vars(options)), "terms": [], "also": []})
    given = {name for name, value in vars(parser.parse_args(argv, blank)).items() if value is not None}
    try:
        student = network_class(options.network)
        options.network_options = parse_settings(student, options.network_options, options.network, HIDDEN)
        words, options.teacher_options = options.teacher_options, {}
        if options.teacher_network:
            teacher = network_class(options.teacher_network)
            options.teacher_options = parse_settings(teacher, words, options.teacher_network, HIDDEN)
        elif words:
            raise ValueError("--teacher-options has no effect without --teacher-network")
        options.ohem = None if options.ohem is None else read_ohem(options.ohem)
        options.terms = name_terms(options.terms)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    options.task = options.task or DATASETS[options.dataset].TASKS[0]
    for name, value in DATASETS[options.dataset].RECIPE._asdict().items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.unlabelled_list and options.unlabelled_share is None:
        options.unlabelled_share = 0.5
    for problem in (*contradictions(options, given, student), *missing_files(options)):
        parser.error(problem)

    options.scale_range = tuple(options.scale_range) if options.random_scale else None
    if options.optimizer == "sgd" and options.momentum is None:
        options.momentum = 0.9
    options.data_dir = options.data_dir or DATASETS[options.dataset].DEFAULT_ROOT
    options.save_name = options.save_name or name_run(options, parser)
    return beside(options, parser)


def beside(options: argparse.Namespace, parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options with ``also`` as the options that the other students would have in runs of their own."""
    others, names = [], [options.save_name]
    for name, words in options.also:
        given = parser.parse_args(words)
        try:
            terms = name_terms(given.terms)
        except ValueError as error:
            parser.error(str(error))
        if name in names:
            parser.error(f"--also {name}: another student has this name")
        if options.unlabelled_share and not terms:
            parser.error(
                f"--also {name}: images without labels teach a student alone nothing; train it in a run of its own"
            )
        if options.task_weight == 0 and not terms:
            parser.error(f"--also {name}: --task-weight 0 leaves it nothing to learn from")
        names.append(name)
        changes = {"terms": terms, "save_name": name, "also": []}
        if not terms:
            changes |= {name: parser.get_default(name) for name in TEACHING} | {"teacher_options": {}}
        others.append(argparse.Namespace(**{**vars(options), **changes}))
    options.also = others
    return options


def read_ohem(words: Sequence[str]) -> dict[str, float]:
    """The settings of ``ohem_loss`` from key=value words."""
    settings = dict(OHEM)
    for word in words:
        key, _, text = word.partition("=")
        kinds = {"threshold": number(float, 0, 1), "min_kept": number(int, 0)}
        if key not in kinds:
            raise ValueError(f"--ohem has no setting {word!r}; it takes threshold=0.7 and min_kept=100000")
        try:
            settings[key] = kinds[key](text)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--ohem {key}: {error}") from None
    return settings


def name_terms(given: Sequence[tuple[str, dict]]) -> list[Term]:
    """The terms in full: a comma in ``on`` made into several, every setting with its value, and names of their own."""
    terms = []
    for method, settings in given:
        defaults = {name: setting.default for name, setting in settings_of(DISTILLATION_LOSSES[method]).items()}
        settings = defaults | settings
        if not all(settings["on"].split(",")):
            raise ValueError(f"--{method} on={settings['on']}: a feature has no name")
        terms += [(method, settings | {"on": on}) for on in settings["on"].split(",")]
    often = Counter(method for method, _ in terms)
    # A name must be one of a module, so without dots: pi, cwd_logits, cwd_layer3_pre.
    names = [method if often[method] == 1 else f"{method}_{s['on']}" for method, s in terms]
    names = [re.sub(r"\W", "_", name) for name in names]
    repeated, numbers = Counter(names), Counter()
    for i, name in enumerate(names):
        if repeated[name] > 1:
            numbers[name] += 1
            names[i] = f"{name}_{numbers[name]}"
    return [Term(name, method, settings) for name, (method, settings) in zip(names, terms, strict=True)]


def contradictions(options: argparse.Namespace, given: set[str], network: type[SegmentationNetwork]) -> list[str]:
    """What is wrong with the options of a student of class ``network``, each as a sentence."""
    problems = []
    if options.terms and not has_teacher(options) and not (options.check and options.task_weight):
        problems.append(f"--{options.terms[0].method} needs a teacher: --T_ckpt_path FILE or --teacher-network NAME")
    for name, flag in (("T_ckpt_path", "--T_ckpt_path"), ("teacher_network", "--teacher-network")):
        if getattr(options, name) and not options.terms:
            problems.append(f"{flag} has no effect without a distillation method: see --list-methods")
    if not has_teacher(options):
        idle = [name for name in sorted(TEACHING) if getattr(options, name) not in (None, False, {})]
        problems += [f"--{name.replace('_', '-')} has no effect without a teacher" for name in idle]
    if options.teacher_cache and not options.views:
        problems.append("--teacher-cache needs --views K: without it no sample comes twice")
    if options.task_weight == 0:
        if not options.terms:
            problems.append("--task-weight 0 leaves nothing to learn from without a distillation method")
        for flag, value in (("--ohem", options.ohem), ("--aux-weight", options.aux_weight)):
            if value is not None:
                problems.append(f"{flag} has no effect with --task-weight 0")
        for flag, value in (("--unlabelled-list", options.unlabelled_list), ("--num-labels", options.num_labels)):
            if value:
                problems.append(f"{flag} has no effect with --task-weight 0, which needs no labels: --data-list")
    if options.unlabelled_share is not None:
        if not options.unlabelled_list and not options.num_labels:
            problems.append("--unlabelled-share has no effect without --unlabelled-list or --num-labels")
        elif not 0 < num_unlabelled(options) < options.batch_size:
            problems.append(
                f"--unlabelled-share {options.unlabelled_share} of a batch of {options.batch_size} leaves no labelled "
                "or no unlabelled image in it"
            )
    if options.unlabelled_share and not options.terms and not options.check:
        problems.append("images without labels teach nothing without a distillation method")
    if "scale_range" in given and not options.random_scale:
        problems.append("--scale-range has no effect without --random-scale")
    least, greatest = options.scale_range
    if least > greatest:
        problems.append(f"--scale-range {least} {greatest}: the smaller factor comes first")
    has_backbone = "backbone" in settings_of(network)
    if options.student_pretrain_model_imgnet and not has_backbone:
        problems.append(f"--student-pretrain-model-imgnet has no effect with {options.network}, which has no backbone")
    if options.S_ckpt_path and options.student_pretrain_model_imgnet:
        problems.append("--S_ckpt_path and --student-pretrain-model-imgnet both set the student's weights: give one")
    if options.optimizer == "adam" and options.momentum is not None:
        problems.append("--momentum has no effect with --optimizer adam")
    if options.preload and options.cache_dir:
        problems.append("--preload and --cache-dir both keep what was decoded: give one")
    if options.bf16 and options.fp16:
        problems.append("--bf16 and --fp16 exclude each other")
    on_cpu = (options.device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cpu"
    if options.bf16 and on_cpu and network.BF16_ON_CPU:
        problems.append(f"--bf16: {network.BF16_ON_CPU}")
    share = int(os.environ.get("WORLD_SIZE", 1)) * options.accumulate
    if options.batch_size % share:
        problems.append(f"--batch-size {options.batch_size} does not divide by {share} (processes x --accumulate)")
    pixels = options.batch_size // share * options.input_size[0] * options.input_size[1]
    if options.ohem and options.ohem["min_kept"] >= pixels:
        problems.append(
            f"--ohem keeps {options.ohem['min_kept']} pixels at least, but a process sees {pixels} at a time, so it "
            f"would have no effect: min_kept={pixels // 16}, say"
        )
    return problems


def missing_files(options: argparse.Namespace) -> list[str]:
    """What the options name and the disk does not have."""
    problems = []
    if not options.data_dir and DATASETS[options.dataset].DEFAULT_ROOT is None:
        problems.append(f"--dataset {options.dataset} needs --data-dir")
    if options.data_dir and DATASETS[options.dataset].DEFAULT_ROOT is None and not Path(options.data_dir).is_dir():
        problems.append(f"--data-dir: no folder {options.data_dir}")
    weights = ("T_ckpt_path", "S_ckpt_path", "student_pretrain_model_imgnet")
    for name in ("data_list", "val_list", "unlabelled_list", "class_map", *weights):
        file = getattr(options, name)
        if file and not Path(file).is_file():
            flag = name if name.endswith("path") else name.replace("_", "-")
            problems.append(f"--{flag}: no file {file}")
    return problems


def name_run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """What is trained, in words, and a digest of the settings that are not the default: other settings, other name."""
    defaults = complete({"dataset": options.dataset}, parser)
    kept = {
        key: value for key, value in vars(options).items() if key not in BOOKKEEPING | {"num_steps", "seed", "also"}
    }
    changed = {key: value for key, value in kept.items() if json_of(value) != json_of(defaults.get(key))}
    network = re.sub(r"[^\w.]+", "-", options.network)
    words = [network, options.network_options.get("backbone"), options.dataset]
    words.append("+".join(term.name for term in options.terms) or "alone")
    digest = hashlib.sha256(json_of(changed).encode()).hexdigest()[:6]
    return "_".join([*filter(None, words), digest, f"seed{options.seed}"])


def complete(stored: Mapping, parser: argparse.ArgumentParser | None = None) -> dict:
    """The options of a run that another version wrote: what it did not know has its default."""
    parser = parser or make_parser()
    defaults = {
        name: value for name, value in vars(parser.parse_args([])).items() if name not in ("list_methods", "also")
    }
    recipe = {**DATASETS[stored["dataset"]].RECIPE._asdict(), "task": DATASETS[stored["dataset"]].TASKS[0]}
    whole = {**defaults, "network_options": {}, "teacher_options": {}, **recipe, **stored}
    if not whole["random_scale"]:
        whole["scale_range"] = None
    if whole["optimizer"] == "sgd" and whole["momentum"] is None:
        whole["momentum"] = 0.9
    terms = []
    for term in whole["terms"]:
        known = settings_of(DISTILLATION_LOSSES[term["method"]]).items()
        terms.append({**{name: setting.default for name, setting in known}, **term})
    return whole | {"terms": terms}


def has_teacher(options: argparse.Namespace) -> bool:
    return bool(options.T_ckpt_path or options.teacher_network)


def num_unlabelled(options: argparse.Namespace) -> int:
    """Unlabelled images in a batch."""
    return round((options.unlabelled_share or 0) * options.batch_size)


def precision(options: argparse.Namespace) -> str:
    """Of the student: "float32", or "bf16" or "fp16" autocast."""
    return "bf16" if options.bf16 else "fp16" if options.fp16 else "float32"


def teacher_precision(options: argparse.Namespace) -> str:
    """Of the teacher: the student's unless it was named."""
    if options.teacher_bf16 is None:
        return precision(options)
    return "bf16" if options.teacher_bf16 else "float32"


def memory_format(options: argparse.Namespace) -> torch.memory_format:
    return torch.channels_last if options.channels_last else torch.contiguous_format


def plain(options: argparse.Namespace) -> dict:
    """The options as plain data, as ``options.json`` holds them; of this student alone, whoever learns beside it."""
    terms = [{"name": term.name, "method": term.method, **term.settings} for term in options.terms]
    own = {key: value for key, value in vars(options).items() if key != "also"}
    return json.loads(json_of(own | {"terms": terms}))


def json_of(value: object) -> str:
    return json.dumps(value, default=str, sort_keys=True)


def describe_methods(name: str) -> str:
    """The methods, a line each; one of them with its settings if ``name`` is its flag."""
    if not name:
        width = max(map(len, DISTILLATION_LOSSES))
        lines = [f"--{flag:{width}}  {summary_of(cls)}" for flag, cls in sorted(DISTILLATION_LOSSES.items())]
        return "\n".join([*lines, "--list-methods NAME prints its settings."])
    if name.removeprefix("--") not in DISTILLATION_LOSSES:
        raise ValueError(f"no method {name!r}; known: {', '.join(DISTILLATION_LOSSES)}")
    cls = DISTILLATION_LOSSES[name.removeprefix("--")]
    return f"--{cls.flag}: {summary_of(cls)} {cls.paper}\n{describe_settings(settings_of(cls))}"


def summary_of(cls: type) -> str:
    return cls.__doc__.strip().splitlines()[0]
