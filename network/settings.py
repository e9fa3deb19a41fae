"""Settings: the keyword-only parameters of a constructor, and values for them as text.

The ``Args`` of the class's docstring are the help texts. If the constructor takes ``**settings``, it has those
of its base class, too. A field of a dataclass may carry ``meaning`` and ``limits`` in its metadata.
"""

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

LARGEST = 2**31 - 1  # whole number, where nothing else is said: what counters and sizes of torch hold anywhere


class Limits(NamedTuple):
    """Limits of a number, or choices of a text; None: any value."""

    least: float | None = None
    greatest: float | None = None
    above: float | None = None
    choices: Collection[str] | None = None

    def describe(self) -> str:
        """The limits as text: "above 0 and at most 1"."""
        bounds = {"{} or more": self.least, "above {}": self.above, "at most {}": self.greatest}
        return " and ".join(words.format(bound) for words, bound in bounds.items() if bound is not None)

    def allow(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.greatest is None or value <= self.greatest)
            and (self.above is None or value > self.above)
        )


UNLIMITED = Limits()


class Setting(NamedTuple):
    kind: Any  # the annotation
    default: Any
    meaning: str
    limits: Limits = UNLIMITED


def settings_of(cls: type) -> dict[str, Setting]:
    """The settings of a class by name, its own before its base's."""
    kinds, meanings = typing.get_type_hints(cls.__init__), meanings_of(cls)
    noted = {field.name: field.metadata for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    parameters = inspect.signature(cls.__init__).parameters.values()
    settings = {}
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY:
            name, note = parameter.name, noted.get(parameter.name, {})
            kind = kinds.get(name, type(parameter.default))  # without an annotation, the default's type
            meaning = note.get("meaning", meanings.get(name, ""))
            settings[name] = Setting(kind, parameter.default, meaning, note.get("limits", UNLIMITED))
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        settings = {**settings, **{k: v for k, v in settings_of(cls.__mro__[1]).items() if k not in settings}}
    return settings


def meanings_of(cls: type) -> dict[str, str]:
    """The ``Args`` section of a class's docstring and of its bases', a line a name."""
    meanings = {}
    for base in reversed(cls.__mro__):
        section = re.search(
            r"^Args:\n(.*?)(?=^\S|\Z)", inspect.cleandoc(base.__dict__.get("__doc__") or ""), re.M | re.S
        )
        for names, text in re.findall(r"^ {4}([\w, ]+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.M):
            meanings |= dict.fromkeys(names.split(", "), re.sub(r"\s+", " ", text))
    return meanings


def parse_settings(cls: type, words: Sequence[str], what: str, hidden: Sequence[str] = ()) -> dict[str, Any]:
    """Parse words such as ``weight=80`` to settings.

    Args:
        what: what the settings are of, for the error: "--pi".
        hidden: settings that have their own flag.

    Raises:
        ValueError: a word that is no key=value, a key that ``cls`` does not have or that is given twice, a value of
            another kind; the message lists keys, defaults and meaning.
    """
    settings, known = {}, {name: setting for name, setting in settings_of(cls).items() if name not in hidden}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or key not in known:
            raise ValueError(f"{what} has no setting {word!r}; it takes key=value of\n{describe_settings(known)}")
        if key in settings:
            raise ValueError(f"{what}: {key} is given twice")
        try:
            settings[key] = parse_value(known[key].kind, text, known[key].limits)
        except ValueError as error:
            raise ValueError(f"{what} {word}: {error}; it means: {known[key].meaning}") from None
    return settings


def parse_value(kind: Any, text: str, limits: Limits = UNLIMITED) -> Any:
    """``text`` as a value of an annotation.

    Args:
        kind: bool, int, float, str, Path, Literal, ``tuple[kind, ...]``, ``tuple[kind, kind]`` or a union with None;
            object for what the text looks like: a number, true, false, none, several with commas between, or a text.
        limits: of a number, of each number of a tuple, or of a text.

    Raises:
        ValueError: says what was expected.
    """
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        if text.lower() == "none":
            return None
        return parse_value(value_kind(kind), text, limits)
    if typing.get_origin(kind) is Literal or limits.choices:
        known = sorted(limits.choices) if limits.choices else typing.get_args(kind)
        choices = {str(choice): choice for choice in known}
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}, not {text!r}")
        return choices[text]
    if typing.get_origin(kind) is tuple:
        kinds, parts = typing.get_args(kind), text.split(",")
        if Ellipsis not in kinds and len(kinds) != len(parts):
            raise ValueError(f"expected {len(kinds)} values with a comma between, not {text!r}")
        return tuple(parse_value(kinds[0], part, limits) for part in parts)
    if kind is object:
        return guess(text)
    if kind is bool:
        return boolean(text)
    if kind in (int, float):
        return parse_number(kind, text, limits)
    return Path(text) if kind is Path else text


def guess(text: str) -> Any:
    """``text`` as what it looks like."""
    if "," in text:
        return tuple(guess(part) for part in text.split(","))
    for kind in (type(None) | int, float, bool):
        try:
            return parse_value(kind, text)
        except ValueError:
            continue
    return text


def value_kind(kind: Any) -> Any:
    """The annotation without its None."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return next(option for option in typing.get_args(kind) if option is not types.NoneType)
    return kind


def parse_number(kind: type, text: str, limits: Limits) -> float:
    """A finite int or float within its limits."""
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if kind is int and value > LARGEST and limits.greatest is None:
        limits = limits._replace(greatest=LARGEST)
    if not (math.isfinite(value) and limits.allow(value)):
        what, bounds = "a whole number" if kind is int else "a number", limits.describe()
        raise ValueError(f"expected {what}{bounds and ', '}{bounds}, not {shortened(text)!r}")
    return value


def shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def words_of(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the ``key=value`` words that ``parse_settings`` reads."""
    return [f"{key}={text_of(value)}" for key, value in settings.items()]


def text_of(value: Any) -> str:
    """A value as the text that ``parse_value`` reads."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def boolean(text: str) -> bool:
    """``true`` or ``false`` in any case, as the originals' scripts write them."""
    if text.lower() not in ("true", "false"):
        raise ValueError(f"expected true or false, not {text!r}")
    return text.lower() == "true"


def describe_settings(settings: dict[str, Setting]) -> str:
    """A line a setting: name, default, meaning."""
    words = {
        name: name if s.default is inspect.Parameter.empty else f"{name}={s.default}" for name, s in settings.items()
    }
    width = max(map(len, words.values()), default=0)
    return "\n".join(f"  {words[name]:{width}}  {setting.meaning}" for name, setting in settings.items())
