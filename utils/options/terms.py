"""Distillation terms on the command line: words to ``Term``s, and the methods described."""

import re
from collections import Counter
from collections.abc import Sequence

from segdistill.network.settings import describe_settings, parse_settings, settings_of
from segdistill.utils.losses import DISTILLATION_LOSSES, Term, loss_class


def parse_term(method: str, words: Sequence[str]) -> tuple[str, dict[str, object]]:
    """A method, by its flag or as FILE.py:CLASS, and the settings that ``key=value`` words give.

    Raises: ValueError, FileNotFoundError: as ``loss_class`` and ``parse_settings``.
    """
    flag = f"--{method}" if method in DISTILLATION_LOSSES else f"--loss {method}"
    return method, parse_settings(loss_class(method), words, flag)


def name_terms(given: Sequence[tuple[str, dict]]) -> tuple[Term, ...]:
    """Complete terms: split a comma in ``on`` into several, fill in all settings, and give unique names."""
    terms = []
    for method, settings in given:
        settings = {name: setting.default for name, setting in settings_of(loss_class(method)).items()} | settings
        if not all(settings["on"].split(",")):
            raise ValueError(f"--{method} on={settings['on']}: a feature has no name")
        terms += [(method, settings | {"on": on}) for on in settings["on"].split(",")]
    # A name must be one of a module, so without dots: pi, cwd_logits, cwd_layer3_pre; of FILE.py:CLASS the class.
    short = [method.rpartition(":")[2] for method, _ in terms]
    often = Counter(short)
    names = [name if often[name] == 1 else f"{name}_{s['on']}" for name, (_, s) in zip(short, terms, strict=True)]
    names = [re.sub(r"\W", "_", name) for name in names]
    repeated, numbers = Counter(names), Counter()
    for i, name in enumerate(names):
        if repeated[name] > 1:
            numbers[name] += 1
            names[i] = f"{name}_{numbers[name]}"
    return tuple(Term(name, method, settings) for name, (method, settings) in zip(names, terms, strict=True))


def describe_methods(name: str) -> str:
    """The methods, a line each; one of them with its settings if ``name`` is its flag or FILE.py:CLASS."""
    if not name:
        width = max(map(len, DISTILLATION_LOSSES))
        lines = [f"--{flag:{width}}  {summary_of(cls)}" for flag, cls in sorted(DISTILLATION_LOSSES.items())]
        return "\n".join([*lines, "--list-methods NAME prints its settings."])
    cls = loss_class(name.removeprefix("--"))
    return f"--{cls.flag}: {summary_of(cls)} {cls.paper}\n{describe_settings(settings_of(cls))}"


def summary_of(cls: type) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]
