"""Options as plain data: what ``options.json`` holds, flat, and what is read back from it."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from segdistill.dataset import DATASETS
from segdistill.network.settings import settings_of, text_of, words_of
from segdistill.utils.losses import DISTILLATION_LOSSES
from segdistill.utils.options.parts import BOOKKEEPING, DEFAULTS, FLAGS, PARTS, SEVERAL, Options, flag_of


def with_defaults(given: Mapping) -> dict:
    """Every option by name: as given, else from the data set's recipe, else the default.

    Raises:
        ValueError: a data set that does not exist.
    """
    dataset = given.get("dataset", DEFAULTS["dataset"])
    if dataset not in DATASETS:
        raise ValueError(f"no data set {dataset!r}; known: {', '.join(sorted(DATASETS))}")
    data_set = DATASETS[dataset]
    whole = {**DEFAULTS, **data_set.recipe_of(given.get("data_dir"))._asdict(), **given}
    dependent = {
        "task": data_set.TASKS[0],
        "data_dir": data_set.DEFAULT_ROOT,
        "momentum": 0.9 if whole["optimizer"] == "sgd" else None,
        "unlabelled_share": 0.5 if whole["unlabelled_list"] else None,
    }
    if data_set.TRUTH == "teacher" and "task_weight" not in given:
        whole["task_weight"] = 0.0  # there are no labels
    if whole["short_side"] and "random_scale" not in given:
        whole["random_scale"] = False
    if not whole["random_scale"] and "scale_range" not in given:
        whole["scale_range"] = None
    return whole | {name: value for name, value in dependent.items() if whole[name] is None}


def flat(options: Options) -> dict:
    """The options of all parts by name, for this student only."""
    parts = [getattr(options, part) for part in PARTS]
    return {field.name: getattr(part, field.name) for part in parts for field in fields(part)}


def plain(options: Options) -> dict:
    """The options as plain data, as ``options.json`` holds them."""
    return plain_of(flat(options))


def plain_of(values: Mapping) -> dict:
    terms = [{"name": term.name, "method": term.method, **term.settings} for term in values["terms"]]
    return json.loads(json_of({**values, "terms": terms}))


def complete(stored: Mapping) -> dict:
    """Complete the options of a run of another version: missing ones get their defaults."""
    whole, terms = with_defaults({"dataset": stored["dataset"], **stored}), []
    for term in whole["terms"]:
        # A method of a user's own file stays as it is: reading a run's options runs no code.
        known = settings_of(DISTILLATION_LOSSES[term["method"]]) if term["method"] in DISTILLATION_LOSSES else {}
        terms.append({**{name: setting.default for name, setting in known.items()}, **term})
    return json.loads(json_of(whole | {"terms": terms}))


def read_config(path: Path) -> list[str]:
    """The options that a run's ``options.json`` holds as the words of a command line; unset ones left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds no options, or one that does not exist.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--config: no file {path}")
    words = []
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        for term in stored.pop("terms", []):
            method, _ = term.pop("method"), term.pop("name", None)
            words += [f"--{method}"] if method in DISTILLATION_LOSSES else ["--loss", method]
            words += words_of(term)
    except (ValueError, LookupError, AttributeError, TypeError):
        raise ValueError(f"--config: {path} does not hold the options of a run") from None
    for name in ("continued", "stop_at"):  # how that run went
        stored.pop(name, None)
    if unknown := sorted(stored.keys() - FLAGS.keys()):
        raise ValueError(f"--config: {path} holds {', '.join(unknown)}, which is no option of this version")
    for name, value in stored.items():
        if isinstance(value, dict):
            words += [flag_of(name), *words_of(value)] if value else []
        elif isinstance(FLAGS[name].metadata["metavar"], tuple) or FLAGS[name].metadata["metavar"] in SEVERAL:
            words += [flag_of(name), *map(str, value)] if value else []
        elif value is not None:
            words += [f"{flag_of(name)}={text_of(value)}"]
    return words


def name_run(values: Mapping) -> str:
    """Name of a run: network, data set and terms, and a digest of the settings that are not the default."""
    defaults, values = (plain_of(of) for of in (with_defaults({"dataset": values["dataset"]}), values))
    unnamed = BOOKKEEPING | {"num_steps", "seed"}
    changed = {name: value for name, value in values.items() if name not in unnamed and value != defaults[name]}
    network = re.sub(r"[^\w.]+", "-", values["network"])
    words = [network, values["network_options"].get("backbone"), values["dataset"]]
    words.append("+".join(term["name"] for term in values["terms"]) or "alone")
    digest = hashlib.sha256(json_of(changed).encode()).hexdigest()[:6]
    return "_".join([*filter(None, words), digest, f"seed{values['seed']}"])


def json_of(value: object) -> str:
    return json.dumps(value, default=str, sort_keys=True)
