"""The command line of train.py. A flag without effect and contradicting flags are errors."""

import argparse
import dataclasses
import re
import shlex
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from segdistill.dataset import DATASETS
from segdistill.dataset.augment import describe_augmentations, parse_augmentations
from segdistill.network import HIDDEN, network_class
from segdistill.network.external.program import runs_code
from segdistill.network.settings import Limits, parse_settings, parse_value, settings_of, value_kind, words_of
from segdistill.utils.flags import Parser, add_switch, reader
from segdistill.utils.losses import DISTILLATION_LOSSES
from segdistill.utils.mix import describe_mixes
from segdistill.utils.options.parts import FLAGS, PARTS, SEVERAL, Ohem, Options, TeacherOptions, flag_of
from segdistill.utils.options.stored import name_run, read_config, with_defaults
from segdistill.utils.options.terms import describe_methods, name_terms, parse_term
from segdistill.utils.tasks import task_named

GROUPS = {"teacher": "losses", "objective": "losses"}  # titles in --help, where they are not the part's name
# Options that a student of --also may have, besides its terms.
OWN = {name for name, field in FLAGS.items() if field.metadata["own"]}

# Options that have an effect only with one value of another: a flag that overrides this value drops them of --config.
DEPENDENT = {
    "network": ("network_options",),
    "teacher_network": ("teacher_options",),
    "random_scale": ("scale_range", "scale_step"),
    "short_side": ("random_scale", "scale_range", "scale_step"),
    "optimizer": ("momentum",),
    "schedule": ("power", "min_lr", "milestones", "gamma"),
}


def parse_options(argv: Sequence[str] | None = None) -> Options:
    """Parse, check and complete; exits with one line that names the flag and the remedy."""
    parser = make_parser()
    given = vars(parser.parse_args(argv))
    try:
        if "list_methods" in given:
            print(describe_methods(given["list_methods"]))
            parser.exit()
        if "list_augmentations" in given:
            print(f"--augment:\n{describe_augmentations()}\n--mix:\n{describe_mixes()}")
            parser.exit()
        if "config" in given:
            given = configured(given)
        also = given.pop("also", [])
        options = make_options(given)
        options = replace(options, also=tuple(expand_also(options, name, words) for name, words in also))
        names = [options.run.save_name, *(other.run.save_name for other in options.also)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"--also {twice[0]}: another student has this name")
        return options
    except (ValueError, OSError) as error:
        parser.error(str(error))


def make_options(given: dict[str, Any]) -> Options:
    """Complete and check options, given by name with the settings of networks and --ohem as words."""
    values = with_defaults(given)
    if is_weights(values["teacher_network"]) and not values["T_ckpt_path"]:
        values["T_ckpt_path"], values["teacher_network"] = values["teacher_network"], None
    values["network_options"] = network_settings(values["network"], values["network_options"])
    if values["teacher_network"]:
        values["teacher_options"] = network_settings(values["teacher_network"], values["teacher_options"])
    if values["ohem"] is not None:
        values["ohem"] = dataclasses.asdict(Ohem()) | parse_settings(Ohem, values["ohem"], "--ohem")
    if DATASETS[values["dataset"]].TRUTH == "teacher" and not values["terms"]:
        values["terms"] = [parse_term(task_named(values).method, [])]
    values["augment"] = tuple(words_of(parse_augmentations(values["augment"])))
    values["lr_factor"] = named_numbers(values["lr_factor"], "--lr-factor")
    values["freeze"] = named_numbers(values["freeze"], "--freeze", 1.0)
    values["terms"] = name_terms(values["terms"])
    if values["save_name"] is None:
        values["save_name"] = name_run(values)
    # argparse makes lists, which no frozen dataclass can hash.
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    parts = {
        part: cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
        for part, cls in PARTS.items()
    }
    return Options(**parts)


def is_weights(name: str | None) -> bool:
    """Whether what should name a network names a file of weights, which names its network itself."""
    return bool(name) and Path(name).suffix in (".pth", ".safetensors") and Path(name).is_file()


def named_numbers(words: Sequence[str], flag: str, default: float | None = None) -> dict[str, float]:
    """``NAME=NUMBER`` words as a dictionary; a name alone has the default, if there is one.

    Raises:
        ValueError: a word of another form, a number that is not above 0, or a name twice.
    """
    numbers = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not name or (not sign and default is None):
            raise ValueError(f"{flag}: expected NAME=NUMBER, not {word!r}")
        if name in numbers:
            raise ValueError(f"{flag}: {name} is given twice")
        try:
            numbers[name] = parse_value(float, text, Limits(above=0)) if sign else default
        except ValueError as error:
            raise ValueError(f"{flag} {word}: {error}") from None
    return numbers


def network_settings(network: str, words: Sequence[str]) -> dict[str, object]:
    return parse_settings(network_class(network), words, network, HIDDEN)


def configured(given: dict[str, Any]) -> dict[str, Any]:
    """Merge given flags with those of --config; given methods replace all of the file's.

    Raises:
        ValueError: as ``read_config``, or the file names code to run that the command line does not name.
    """
    path = given.pop("config")
    stored = vars(make_parser(origin=f"--config {path}: ").parse_args(read_config(path)))
    if "terms" in given:
        stored.pop("terms", None)
    for name, dependent in DEPENDENT.items():
        if name in given and given[name] != stored.get(name):
            for other in dependent:
                stored.pop(other, None)
    values = stored | given
    if not (values.get("num_labels") or values.get("unlabelled_list") or "unlabelled_share" in given):
        values.pop("unlabelled_share", None)
    code = [(flag_of(name), values.get(name)) for name in ("network", "teacher_network") if name not in given]
    for flag, name in [*code, *(("--loss", method) for method, _ in stored.get("terms", []))]:
        if name and runs_code(name):
            raise ValueError(f"--config: {path} would run code of {name}: name it by {flag} on the command line")
    return values


def expand_also(options: Options, name: str, words: Sequence[str]) -> Options:
    """Expand --also into the options of a separate run of that student.

    Raises:
        ValueError: they contradict each other.
    """
    origin = f"--also {name}: "
    own = vars(make_parser(OWN, origin).parse_args(words))
    terms = name_terms(own.pop("terms", []))
    try:
        inherited = {}
        num_labels = own.get("num_labels", options.data.num_labels)
        if not terms or not (num_labels or options.data.unlabelled_list):
            inherited["unlabelled_share"] = None  # it learns from labels alone
        if not terms:
            inherited["unlabelled_list"] = None
        data = replace(options.data, **inherited | own)
        teacher = options.teacher
        if options.data.unlabelled_share and not data.unlabelled_share:
            teacher = replace(teacher, mix=None, min_confidence=None)
        return Options(
            data=data,
            student=options.student,
            teacher=teacher if terms else TeacherOptions(),
            objective=replace(options.objective, terms=terms),
            optimisation=options.optimisation,
            run=replace(options.run, save_name=name),
        )
    except ValueError as error:
        raise ValueError(f"{origin}{error}") from None


def make_parser(only: Collection[str] | None = None, origin: str = "", every: bool = True) -> Parser:
    """The flags of all options, or of some.

    Args:
        only: names of options; methods are always included, commands are not.
        origin: the source of the words, with which error messages begin.
        every: explain the rare options, too.
    """
    rare = " ".join(flag_of(name) for name, field in FLAGS.items() if field.metadata["rare"])
    parser = Parser(
        prog="train.py",
        usage="train.py [options] [--METHOD [key=value ...]] ...",
        description="Train a segmentation network, alone or distilled from a teacher.",
        epilog="--METHOD [key=value ...] adds a distillation term, as often as given: --pi weight=80 --cwd on=context. "
        "--list-methods names them. Defaults marked (recipe) are the data set's."
        + ("" if every else f" --help all explains these, too: {rare}."),
        formatter_class=lambda prog: Formatter(prog, max_help_position=41, width=120),
        argument_default=argparse.SUPPRESS,
        add_help=False,  # --help is listed in a group
        origin=origin,
    )
    groups = {}
    for part, cls in PARTS.items():
        title = GROUPS.get(part, part)
        group = groups[title] = groups.get(title) or parser.add_argument_group(title)
        for name, setting in settings_of(cls).items():
            if name in FLAGS and (only is None or name in only):
                add_flag(group, name, setting.kind, setting.default, every)
    groups["losses"].add_argument(
        "--loss",
        action=AddTerm,
        nargs="+",
        dest="terms",
        metavar=("FILE.py:CLASS", "key=value"),
        help="your own method",
    )
    for flag in DISTILLATION_LOSSES:
        parser.add_argument(f"--{flag}", action=AddTerm, nargs="*", dest="terms", help=argparse.SUPPRESS)
    if only is None:
        add_commands(groups)
    return parser


def add_flag(group: argparse._ArgumentGroup, name: str, kind: Any, default: Any, every: bool) -> None:
    """The flag of an option; of a rare one without help unless ``every``."""
    metadata, kind = FLAGS[name].metadata, value_kind(kind)
    meaning, metavar, limits = metadata["meaning"], metadata["metavar"], metadata["limits"]
    shown = "recipe" if metadata["recipe"] else "true" if default is True else default
    if shown is not None and shown is not False and metavar not in SEVERAL:
        meaning = f"{meaning} ({shown:g})" if isinstance(shown, float) else f"{meaning} ({shown})"
    if metadata["rare"] and not every:
        meaning = argparse.SUPPRESS
    if kind is bool:
        add_switch(group, flag_of(name), meaning, argparse.SUPPRESS)
    elif metavar in SEVERAL:
        group.add_argument(flag_of(name), nargs="*", metavar=metavar, help=meaning)
    elif isinstance(metavar, tuple):
        kind = get_args(kind)[0]
        group.add_argument(flag_of(name), nargs=len(metavar), type=reader(kind, limits), metavar=metavar, help=meaning)
    else:
        if get_origin(kind) is Literal:
            metavar = metavar or "|".join(get_args(kind))
        # An optional number can be unset by "none"; a text may be "none" itself.
        optional = kind | None if default is None and kind in (int, float) and not metadata["recipe"] else kind
        group.add_argument(flag_of(name), type=reader(optional, limits), metavar=metavar, help=meaning)


def add_commands(groups: dict[str, argparse._ArgumentGroup]) -> None:
    """The flags that are no options of a student."""
    groups["losses"].add_argument(
        "--list-methods", nargs="?", const="", metavar="NAME", help="print the distillation methods"
    )
    groups["data"].add_argument("--list-augmentations", action="store_true", help="print the names of --augment, --mix")
    groups["losses"].add_argument(
        "--also",
        action="append",
        type=also,
        metavar="NAME=FLAGS",
        help="one more: --METHOD, --num-labels, --unlabelled-share; cwd='--cwd weight=3'",
    )
    groups["run"].add_argument(
        "-h",
        "--help",
        action=ShowHelp,
        nargs="?",
        choices=["all"],
        metavar="all",
        help="all: rare options, too",
    )
    groups["run"].add_argument(
        "--config", type=Path, metavar="FILE", help="the options.json of a run; flags override it"
    )


def also(text: str) -> tuple[str, list[str]]:
    """``NAME=FLAGS`` to the name of a run and its words."""
    name, sign, words = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"expected NAME=FLAGS such as cwd='--cwd weight=3', not {text!r}")
    return name, shlex.split(words)


class Formatter(argparse.HelpFormatter):
    def _fill_text(self, text, width, indent):
        return textwrap.fill(text, width, break_on_hyphens=False)


class ShowHelp(argparse.Action):
    def __call__(self, parser, options, words, flag=None):
        make_parser(every=words == "all").print_help()
        parser.exit()


class AddTerm(argparse.Action):
    """Every occurrence of --METHOD key=value ..., or of --loss FILE.py:CLASS key=value ..., adds a method."""

    def __call__(self, parser, options, words, flag=None):
        method = flag.removeprefix("--")
        if method == "loss":
            method, *words = words
        try:
            if flag == "--loss" and not re.search(r"\.py:\w+$", method):
                raise ValueError(f"--loss: expected a class in a file, my_loss.py:MyLoss, not {method!r}")
            options.terms = [*getattr(options, "terms", []), parse_term(method, words)]
        except (ValueError, OSError) as error:
            parser.error(str(error))
