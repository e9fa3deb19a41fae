"""``key=value`` words on the command line, read by the constructor that they are for.

A class's settings are its constructor's keyword-only parameters, their meaning is the ``Args`` of its docstring; where
the constructor takes ``**settings``, those of its base class belong to it too.
"""

import inspect
import math
import re
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple


class Setting(NamedTuple):
    kind: Any  # the annotation
    default: Any
    meaning: str


def settings_of(cls: type) -> dict[str, Setting]:
    """The settings of a class by name, its own before its base's."""
    own = typing.get_type_hints(cls.__init__)
    meanings = meanings_of(cls)
    parameters = inspect.signature(cls.__init__).parameters.values()
    settings = {
        # Without an annotation the default tells the kind.
        parameter.name: Setting(
            own.get(parameter.name, type(parameter.default)), parameter.default, meanings.get(parameter.name, "")
        )
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY
    }
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
    """The settings that words such as ``weight=80`` give.

    Args:
        what: what the settings are of, for the error: "--pi".
        hidden: settings that have a flag of their own.

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
            settings[key] = parse_value(known[key].kind, text)
        except ValueError as error:
            raise ValueError(f"{what} {word}: {error}; it means: {known[key].meaning}") from None
    return settings


def parse_value(kind: Any, text: str) -> Any:
    """``text`` as a value of an annotation: bool, int, float, str, Literal, tuple[kind, ...] or a union with None."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        if text.lower() == "none":
            return None
        return parse_value(next(option for option in typing.get_args(kind) if option is not type(None)), text)
    if typing.get_origin(kind) is Literal:
        choices = {str(choice): choice for choice in typing.get_args(kind)}
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}, not {text!r}")
        return choices[text]
    if typing.get_origin(kind) is tuple:
        return tuple(parse_value(typing.get_args(kind)[0], part) for part in text.split(","))
    if kind is bool:
        return boolean(text)
    if kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(f"expected a number, not {text!r}") from None
        if not math.isfinite(value):
            raise ValueError(f"expected a finite number, not {text!r}")
        return value
    return text


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
