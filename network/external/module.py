"""Any nn.Module as a network: ``my.py:Net``, whose maps are named by the paths of its modules.

Nothing is declared: classes, channels, strides and the image sizes that it takes are measured.
"""

import copy
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segdistill.libs.text import shown
from segdistill.network.base import Feature, SegmentationNetwork, resize

# Sides of square images that a network is tried with: what most take, then usual sizes of those that take one alone.
SIDES = (256, 224, 384, 512, 320, 448, 640, 768, 1024)
# What the sides of images may have to be multiples of; the last are patches of transformers.
MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 7, 14, 28)
# Labels are uint8 and 255 is void: a map of more channels has no classes.
MOST_CLASSES = 255
# Keywords of a constructor that have another meaning in ``build_network``: they keep their defaults.
RESERVED = ("name", "norm", "model", "hf_config", "file")

# Images (N, 3, H, W) -> maps by name.
Run = Callable[[Tensor], dict[str, Tensor]]


class Fit(NamedTuple):
    """What images a network takes.

    size: (height, width) of every image, None for any. multiple: both sides are multiples of it. singly: one image at a
    time.
    """

    size: tuple[int, int] | None = None
    multiple: int = 1
    singly: bool = False

    def apply(self, run: Run, images: Tensor) -> dict[str, Tensor]:
        """The maps of images (N, 3, H, W), which are resized to what the network takes."""
        nearest = [max(round(side / self.multiple), 1) * self.multiple for side in images.shape[2:]]
        images = resize(images, self.size or nearest)
        if not self.singly or len(images) == 1:
            return run(images)
        parts = [run(image[None]) for image in images]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def measure(
    run: Run, what: str, size: tuple[int, int] | None = None, singly: bool = False
) -> tuple[dict[str, Feature], Fit]:
    """Channels and strides of the maps that ``run`` makes, and the images that it takes.

    A map has the proportions of the image, and becomes about twice as wide when the image does.

    Args:
        run: gets images of zeros on the default device.
        what: the network's name, for errors.
        size, singly: of its images, where the file says so.

    Raises:
        ValueError: it takes no images, or makes no map of them; says why.
    """
    (height, width), first = first_maps(run, what, [size] if size else [(side, side) for side in SIDES])
    first = {
        name: value
        for name, value in first.items()
        if value.shape[2] > 1 and math.isclose(value.shape[2] * width, value.shape[3] * height, rel_tol=0.1)
    }
    if not first:
        raise ValueError(f"{what} makes no map (N, C, H, W) of images (1, 3, {height}, {width})")
    counts = (1,) if singly else (2, 1)
    for count in counts:
        for multiple in () if size else MULTIPLES:
            second = attempt(run, count, height + multiple, 2 * width + multiple)
            grown = {name for name in first if name in second and grows(first[name], second[name])}
            if grown and grown.issuperset({"logits"} & first.keys()):
                features = {name: feature_of(value, height) for name, value in first.items() if name in grown}
                return features, Fit(None, multiple, count == 1)
    # It takes images of one size alone.
    features = {name: feature_of(value, height) for name, value in first.items()}
    count = next(count for count in counts if count == 1 or attempt(run, count, height, width))
    return features, Fit((height, width), singly=count == 1)


def first_maps(run: Run, what: str, sizes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], dict[str, Tensor]]:
    """The first of ``sizes`` that a network takes, with its maps. Raises ValueError if there is none."""
    first = None
    for size in sizes:
        try:
            return size, run(torch.zeros(1, 3, *size))
        except Exception as error:  # a user's code breaks in any way
            first = first or error
    height, width = sizes[0]
    raise ValueError(f"{what} does not take images (1, 3, {height}, {width}): {reason(first)}") from first


def attempt(run: Run, count: int, height: int, width: int) -> dict[str, Tensor]:
    """The maps of a batch; none if the network does not take it."""
    try:
        maps = run(torch.zeros(count, 3, height, width))
    except Exception:  # a user's code breaks in any way
        return {}
    return {name: value for name, value in maps.items() if len(value) == count}


def reason(error: Exception) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines() or [""]
    line = lines[-1] if lines[0].startswith("The following operation failed") else lines[0]  # of TorchScript
    return f"{type(error).__name__}: {line[:300]}"


def grows(first: Tensor, second: Tensor) -> bool:
    """Whether a map has become twice as wide, and nothing else."""
    (_, channels, height, width), (_, channels_2, height_2, width_2) = first.shape, second.shape
    return channels == channels_2 and width_2 >= 1.5 * width and height_2 < 1.5 * height


def feature_of(value: Tensor, height: int) -> Feature:
    return Feature(value.shape[1], max(round(height / value.shape[2]), 1))


def named_maps(output: object) -> dict[str, Tensor]:
    """The maps (N, C, H, W) in what a model returns, by name.

    ``logits`` is a tensor, the first map of a tuple, or what a dictionary (or a ModelOutput) calls logits or out. Any
    other has its key for a name, or its place: ``output.1``.
    """
    if isinstance(output, Mapping):
        maps = flat_maps(output, "")
        main = next((name for name in ("logits", "out") if name in maps), None)
    else:
        maps = flat_maps(output, "output")
        main = next(iter(maps), None)
    return maps if main is None else {"logits": maps.pop(main), **maps}


def flat_maps(value: object, name: str) -> dict[str, Tensor]:
    """The maps in nested containers, named by their keys and places."""
    if isinstance(value, Tensor):
        return {name: value} if value.ndim == 4 and value.is_floating_point() else {}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    items = value.items() if isinstance(value, Mapping) else ()
    parts = [flat_maps(item, f"{name}.{key}" if name else str(key)) for key, item in items]
    return {key: item for part in parts for key, item in part.items()}


def classes_of(features: Mapping[str, Feature], can_have: bool) -> tuple[int, dict[str, Feature]]:
    """The class count and the features of a network; without classes ``logits`` is called ``output``."""
    if can_have and "logits" in features and features["logits"].channels <= MOST_CLASSES:
        return features["logits"].channels, dict(features)
    return 0, without_classes(features)


def without_classes(maps: Mapping[str, Any]) -> dict[str, Any]:
    return {"output" if name == "logits" else name: value for name, value in maps.items()}


class ModuleNetwork(SegmentationNetwork):
    """An nn.Module of a user.

    ``logits`` is its output; ``output`` where its channels are no classes, as ``num_classes = 0`` in its class says.
    Every module that makes a map is a feature, by its path: ``encoder.stages.2``; of one that is called several times
    it is the last map.

    Args:
        make: the class, or a function that returns a module.
        num_classes: given to the constructor if it has this keyword. The class count is what comes out.
        options: keywords of the constructor.

    Raises:
        ValueError: the constructor needs other arguments, or the module takes no images (N, 3, H, W); says why.
    """

    NO_CLASSES = "num_classes = 0 in its class says so"

    def __init__(self, make: Callable[..., nn.Module], num_classes: int | None, options: Mapping[str, object]):
        super().__init__()
        parameters = inspect.signature(make).parameters
        counted = {"num_classes": num_classes} if num_classes and "num_classes" in parameters else {}
        given = {**counted, **options}
        if missing := [name for name, parameter in parameters.items() if is_required(parameter) and name not in given]:
            raise ValueError(
                f"{make.__name__} needs {', '.join(missing)}: --network-options {missing[0]}=VALUE (of a teacher: "
                "--teacher-options)"
            )
        try:
            self.model = build(make, given)
            self.features, self.fit = measure_on(self.model, "meta", make.__name__)
        except Exception:  # some code cannot be run without values
            with torch.device("cpu"):
                self.model = build(make, given)
                self.features, self.fit = measure_on(self.model, "cpu", make.__name__)
        can_have = getattr(self.model, "num_classes", None) != 0
        self.num_classes, self.features = classes_of(self.features, can_have)
        self.has_classes = self.num_classes > 0
        if counted and self.num_classes not in (0, num_classes):
            raise ValueError(f"{make.__name__}(num_classes={num_classes}) answers with {self.num_classes} channels")

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        maps = self.fit.apply(functools.partial(run_module, self.model, wanted=wanted), images)
        return maps if self.has_classes else without_classes(maps)


def is_required(parameter: inspect.Parameter) -> bool:
    kinds = (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    return parameter.default is parameter.empty and parameter.kind in kinds


def build(make: Callable[..., nn.Module], options: Mapping[str, object]) -> nn.Module:
    """Call a constructor. Raises ValueError if it fails, or does not return a module."""
    try:
        model = make(**options)
    except Exception as error:  # a user's code breaks in any way
        words = ", ".join(f"{key}={shown(value)}" for key, value in options.items())
        raise ValueError(f"{make.__name__}({words}) cannot be built: {reason(error)}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{make.__name__} returns a {type(model).__name__}, not a torch.nn.Module")
    return model


def measure_on(model: nn.Module, device: str, what: str) -> tuple[dict[str, Feature], Fit]:
    """``measure`` a module: a copy on the meta device, or itself; all its maps."""
    model = copy.deepcopy(model).to("meta") if device == "meta" else model
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), torch.device(device):
            return measure(functools.partial(run_module, model), what)
    finally:
        for module in training:
            module.training = True


def run_module(model: nn.Module, images: Tensor, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
    """The maps that a module returns, and those of its modules in ``wanted`` (None: all)."""
    seen, handles = {}, []

    def note(name: str, module: nn.Module, inputs: tuple, output: object) -> None:
        for value in flat_maps(output, name).values():
            # A layer behind it may change it in place.
            seen[name] = value if wanted is None else value.clone()
            break

    try:
        for name, module in model.named_modules():
            if name and (wanted is None or name in wanted) and not isinstance(module, torch.jit.ScriptModule):
                handles.append(module.register_forward_hook(functools.partial(note, name)))
        output = model(images)
    finally:
        for handle in handles:
            handle.remove()
    return seen | named_maps(output)


def adapter_for(make: Callable[..., nn.Module]) -> type[ModuleNetwork]:
    """The network class of a user's class or function: its keywords are the settings."""
    parameters = [
        parameter
        for name, parameter in inspect.signature(make).parameters.items()
        if name not in RESERVED and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    kinds = annotations_of(make)
    settings = [
        parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=kind_of(kinds.get(parameter.name), parameter.default))
        for parameter in parameters
        if parameter.name != "num_classes"
    ]

    def __init__(self, num_classes, **options):
        ModuleNetwork.__init__(self, make, num_classes, options)

    first = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", "num_classes")]
    __init__.__signature__ = inspect.Signature([*first, *settings])
    __init__.__annotations__ = {setting.name: setting.annotation for setting in settings}
    return type(make.__name__, (ModuleNetwork,), {"__init__": __init__, "__doc__": make.__doc__})


def annotations_of(make: Callable) -> dict[str, Any]:
    try:
        return typing.get_type_hints(make.__init__ if isinstance(make, type) else make)
    except (NameError, TypeError):  # names that exist for a type checker alone
        return {}


def kind_of(annotation: Any, default: object) -> Any:
    """How a setting is read from text: by its annotation, else its default's type, else as what it looks like."""
    plain, origin = (bool, int, float, str, Path), typing.get_origin(annotation)
    if annotation in plain or origin is typing.Literal:
        return annotation
    parts = typing.get_args(annotation) if origin in (tuple, typing.Union, types.UnionType) else ()
    if parts and all(part in (*plain, type(None), Ellipsis) for part in parts):
        return annotation
    return type(default) if type(default) in plain else object
