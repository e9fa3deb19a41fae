"""The space of a search: distillation methods whose settings have several values.

    --pi weight=1..10:log temperature=1,2,4 | --cwd on=logits,context

Alternatives are separated by ``|`` or a new line. A comma separates values; LOW..HIGH stands for every number between,
LOW..HIGH:log for the same, even in its logarithm.
"""

import itertools
import re
import shlex
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from segdistill.network.settings import settings_of, value_kind
from segdistill.utils.losses import loss_class
from segdistill.utils.options.terms import parse_term

if TYPE_CHECKING:
    from optuna import Trial

METHODS = "methods"  # the parameter that selects an alternative, where there are several


class Range(NamedTuple):
    low: float
    high: float
    log: bool
    whole: bool


class Choice(NamedTuple):
    """A setting ``key`` that varies; its parameter ``name`` is unique in the space: "pi.weight"."""

    name: str
    key: str
    values: tuple[str, ...] | Range


class Space:
    """What a trial is drawn from; the settings of a trial are its parameters by name.

    Args:
        text: see the module's docstring.

    Raises:
        ValueError: it is empty, names no method or setting, or a value of the wrong kind.
    """

    def __init__(self, text: str):
        used = Counter()
        lines = [words for line in re.split(r"[|\n]", text) if (words := shlex.split(line))]
        self.lines = [shlex.join(words) for words in lines]
        # Words of train.py, some of them yet to be chosen, by the names of their methods: "pi+cwd", "cwd_2".
        self.alternatives: dict[str, list[str | Choice]] = dict(parse_alternative(words, used) for words in lines)
        if not self.alternatives:
            raise ValueError("the space is empty: expected methods with values, such as --pi weight=1..10:log")

    def choices(self, alternative: str) -> list[Choice]:
        return [word for word in self.alternatives[alternative] if isinstance(word, Choice)]

    def words(self, parameters: Mapping[str, Any]) -> list[str]:
        """The flags of train.py, ``["--pi", "weight=3.2"]``."""
        alternative = self.alternatives[parameters.get(METHODS, next(iter(self.alternatives)))]
        return [
            f"{word.key}={text_of(parameters[word.name])}" if isinstance(word, Choice) else word for word in alternative
        ]

    def name(self, parameters: Mapping[str, Any]) -> str:
        """The name of a run with these settings: "pi_weight_3.2"."""
        text = " ".join(self.words(parameters)).removeprefix("--").replace(" --", "+")
        return re.sub(r"[^\w.+-]", "_", text)

    def draw(self, trial: "Trial") -> None:
        """Give an Optuna trial the parameters that it does not have yet."""
        (alternative, *others) = self.alternatives
        if others:
            alternative = trial.suggest_categorical(METHODS, list(self.alternatives))
        for name, _, values in self.choices(alternative):
            if not isinstance(values, Range):
                trial.suggest_categorical(name, values)
            elif values.whole:
                trial.suggest_int(name, values.low, values.high, log=values.log)
            else:
                trial.suggest_float(name, values.low, values.high, log=values.log)

    def grid(self) -> dict[str, dict[str, Any]] | None:
        """All settings by name; None if a range has no end of them."""
        settings = {}
        for alternative in self.alternatives:
            lists = {name: every(values) for name, _, values in self.choices(alternative)}
            if None in lists.values():
                return None
            selected = {METHODS: alternative} if len(self.alternatives) > 1 else {}
            for values in itertools.product(*lists.values()):
                one = selected | dict(zip(lists, values, strict=True))
                settings.setdefault(self.name(one), one)
        return settings

    def examples(self) -> list[list[str]]:
        """The words of a few settings, in which every value of a list and both ends of a range occur."""
        words = []
        for alternative in self.alternatives:
            lists = {
                name: values[:2] if isinstance(values, Range) else values
                for name, _, values in self.choices(alternative)
            }
            for i in range(max(map(len, lists.values()), default=1)):
                parameters = {name: values[min(i, len(values) - 1)] for name, values in lists.items()}
                words.append(self.words({METHODS: alternative, **parameters}))
        return words


def parse_alternative(words: Sequence[str], used: Counter) -> tuple[str, list[str | Choice]]:
    """Name and words of an alternative; ``used`` counts how often a method occurs in the space."""
    parts, names, method, keys, rest = [], [], None, set(), iter(words)
    for word in rest:
        if word.startswith("--"):
            parts.append(word)
            method, keys = word.removeprefix("--"), set()
            if word == "--loss":
                method = next(rest, "")
                parts.append(method)
            parse_term(method, [])
            used[method] += 1
            names.append(f"{method}_{used[method]}" if used[method] > 1 else method)
            continue
        key, _, text = word.partition("=")
        if method is None:
            raise ValueError(f"the space: expected --METHOD [key=values ...], not {word!r}")
        if key in keys:
            raise ValueError(f"the space: {key} of --{method} is given twice")
        keys.add(key)
        values = parse_values(method, key, text)
        single = not isinstance(values, Range) and len(values) == 1
        parts.append(f"{key}={values[0]}" if single else Choice(f"{names[-1]}.{key}", key, values))
    return "+".join(names), parts


def parse_values(method: str, key: str, text: str) -> tuple[str, ...] | Range:
    """The values of a setting; each is checked as train.py would."""
    setting = settings_of(loss_class(method)).get(key)
    kind = value_kind(setting.kind) if setting else str
    between = re.fullmatch(r"(.+?)\.\.(.+?)(:log)?", text) if kind in (int, float) else None
    if between:
        ends = between.groups()[:2]
        low, high = (parse_term(method, [f"{key}={end}"])[1][key] for end in ends)
        log = between[3] is not None
        if low >= high or (log and low <= 0):
            least = " above 0" if log else ""
            raise ValueError(f"the space: {key}={text}: expected two numbers{least}, the smaller first")
        return Range(low, high, log, kind is int)
    values = (text,) if typing.get_origin(kind) is tuple else tuple(text.split(","))
    if len(set(values)) < len(values):
        raise ValueError(f"the space: {key}={text} has a value twice")
    for value in values:
        parse_term(method, [f"{key}={value}"])
    return values


def every(values: tuple[str, ...] | Range) -> Sequence[str | int] | None:
    """All values; None if there is no end of them."""
    if not isinstance(values, Range):
        return values
    return range(values.low, values.high + 1) if values.whole else None


def text_of(value: Any) -> str:
    """A parameter's value as train.py reads it: of a range, three digits are enough."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
