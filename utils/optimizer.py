"""What a step does with the gradient: the optimizer, its groups of parameters, and the schedule of their rates.

Rates and frozen parts are functions of the training's progress alone, so a resumed run repeats them.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from segdistill.network import SegmentationNetwork
from segdistill.utils.learner import Objective, poly
from segdistill.utils.options import OptimisationOptions

WARMUP_START = 1e-6  # factor at the first step of a warm-up, as in mmcv: not 0, which Adam would count as a step
ATTENTION = ("attn", "attention")  # in the names of the layers that make a block one of a transformer


def build_optimizer(objective: Objective, options: OptimisationOptions) -> torch.optim.Optimizer:
    """The optimizer of all parameters that require a gradient; ``Learner`` multiplies its rates by the schedule.

    Raises:
        ValueError: a part, or a backbone of blocks, that the network does not have.
    """
    groups = parameter_groups(objective, options)
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, options.lr_g, options.momentum, weight_decay=options.weight_decay)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, options.lr_g, weight_decay=options.weight_decay)


def parameter_groups(objective: Objective, options: OptimisationOptions) -> list[dict]:
    """Parameters of one rate and weight decay each, in the order of their first parameters.

    A group that does not follow the schedule has ``constant``.

    Raises: ValueError, as ``build_optimizer``.
    """
    path = backbone_path(objective.student)
    parts = {part_of(name, path) for name, parameter in objective.named_parameters() if parameter.requires_grad}
    if unknown := sorted(options.lr_factor.keys() - parts):
        raise ValueError(
            f"--lr-factor {unknown[0]}: this training has no such part; known: {', '.join(sorted(parts))} "
            "(a critic has its own rate: --ho lr=)"
        )
    depths = layer_factors(objective.student, options.layer_decay) if options.layer_decay else {}
    own = {f"losses.{name}.": loss.own_rate for name, loss in objective.losses.items() if loss.own_rate is not None}
    groups: dict[tuple, list[Tensor]] = {}
    for name, parameter in objective.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = options.lr_g * options.lr_factor.get(part_of(name, path), 1.0) * depths.get(name, 1.0)
        decay = 0.0 if options.no_decay_norms and parameter.dim() <= 1 else options.weight_decay
        constant = next((own[prefix] for prefix in own if name.startswith(prefix)), None)
        groups.setdefault((rate, decay, constant), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        if constant is None
        else {"params": parameters, "lr": constant, "weight_decay": decay, "constant": True}
        for (rate, decay, constant), parameters in groups.items()
    ]


def backbone_path(network: SegmentationNetwork) -> str:
    """The name of the network's backbone among its modules; "" if it has none."""
    names = (name for name, _ in network.named_modules())
    return network.backbone_name if network.backbone_name in names else ""


def part_of(name: str, backbone: str) -> str:
    """The part that a parameter of an ``Objective`` belongs to: backbone, head or adapters, those of the methods."""
    if name.startswith("losses."):
        return "adapters"
    return "backbone" if backbone and name.startswith(f"student.{backbone}.") else "head"


def layer_factors(network: SegmentationNetwork, decay: float) -> dict[str, float]:
    """Layer-wise decay (Clark et al., ELECTRA, ICLR 2020): the factor of each parameter of the backbone by its name.

    Of n blocks the last has the factor ``decay``, the first decay^n, what is defined before it decay^(n + 1), and what
    is defined after a block that of the block. The head has 1.

    Raises:
        ValueError: the network has no backbone of transformer blocks.
    """
    path = backbone_path(network)
    backbone = network.get_submodule(path) if path else nn.Module()
    blocks: list[str] = []
    for name, module in backbone.named_modules():
        inside = any(name.startswith(f"{block}.") for block in blocks)
        if not inside and any(word in child for child, _ in module.named_children() for word in ATTENTION):
            blocks.append(name)
    if not blocks:
        raise ValueError(f"--layer-decay has no effect with {network.config['name']}: it has no transformer's blocks")
    factors, reached = {}, 0
    for name, _ in backbone.named_parameters():
        block = next((number for number, block in enumerate(blocks, 1) if name.startswith(f"{block}.")), None)
        reached = block or reached
        factors[f"student.{path}.{name}"] = decay ** (len(blocks) + 1 - reached)
    return factors


def frozen_backbone(objective: Objective, options: OptimisationOptions) -> tuple[nn.Module, float] | None:
    """The module that --freeze keeps as it is, and until which share of the training. Before ``build_optimizer``, which
    leaves it out if that is 1.

    Raises:
        ValueError: the network has no backbone, or has nothing else that a term could teach.
    """
    until = options.freeze.get("backbone")
    if until is None:
        return None
    network = objective.student
    if not (path := backbone_path(network)):
        raise ValueError(f"--freeze backbone has no effect with {network.config['name']}, which has no backbone")
    backbone = network.get_submodule(path)
    if until == 1:
        backbone.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise ValueError(f"--freeze backbone leaves nothing of {network.config['name']} to learn")
        for name, loss in objective.losses.items():
            if all(feature.startswith("layer") for feature in loss.needs.student):
                raise ValueError(f"--{name} teaches nothing with --freeze backbone: it reads the backbone's maps alone")
    return backbone, until


def schedule_of(options: OptimisationOptions) -> Callable[[float], float]:
    """The factor of the learning rates at a progress (0..1) of the training: warm-up times the schedule."""
    floor = options.min_lr / options.lr_g
    decreasing = {
        "poly": poly(options.power),
        "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
        "constant": lambda progress: 1.0,
        "multistep": multistep(map(options.share, options.milestones or ()), options.gamma or 0.1),
    }[options.schedule]
    warmup = options.share(options.warmup or 0)

    def factor(progress: float) -> float:
        rising = 1.0
        if progress < warmup:
            rising = WARMUP_START + (1 - WARMUP_START) * progress / warmup
        return rising * (floor + (1 - floor) * decreasing(progress))

    return factor


def multistep(milestones: Iterable[float], gamma: float) -> Callable[[float], float]:
    """The schedule gamma^k, k the milestones, shares of the training, that are reached."""
    milestones = tuple(milestones)
    return lambda progress: gamma ** sum(progress >= milestone for milestone in milestones)
