"""The command line of train.py. A flag that would be ignored is an error, and so is one that contradicts another."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from segdistill.dataset import DATASETS
from segdistill.libs import NORMS
from segdistill.network import BACKBONES, NETWORKS
from segdistill.utils.flags import add_switch, size
from segdistill.utils.losses import DISTILLATION_LOSSES, TaskLoss


def make_parser() -> tuple[argparse.ArgumentParser, dict[str, str]]:
    """The parser, and for each flag that only matters under a switch, that switch."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Train a segmentation network, alone or distilled from a teacher.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", default="scenes", choices=sorted(DATASETS), help="scenes is generated on first use")
    data.add_argument("--data-dir", help="folder of the data set; scenes has a default")
    data.add_argument("--data-list", help="text file of 'image label' lines, in place of the data set's train split")
    data.add_argument("--input-size", type=size, default=(512, 512), metavar="H,W", help="training crop")
    add_switch(data, "--random-scale", "scale each sample by a factor in --scale-range")
    data.add_argument("--scale-range", type=float, nargs=2, default=(0.7, 2.1), metavar=("MIN", "MAX"), help="SKD's")
    add_switch(data, "--random-mirror", "mirror half of the samples")
    add_switch(data, "--preload", "decode the data set once and keep it in memory")
    data.add_argument("--num-workers", type=int, default=2, help="loader processes; the samples do not depend on it")

    student = parser.add_argument_group("student")
    student.add_argument("--network", default="pspnet", choices=sorted(NETWORKS), help="architecture")
    student.add_argument("--backbone", choices=sorted(BACKBONES), help="of the networks that take one")
    student.add_argument("--p", type=int, default=2, help="ESPNet: blocks at stride 4")
    student.add_argument("--q", type=int, default=8, help="ESPNet: blocks at stride 8")
    student.add_argument("--norm", default="batch_norm", choices=sorted(NORMS), help="normalisation layers")
    student.add_argument(
        "--activation",
        default="relu",
        choices=("leaky_relu", "relu"),
        help="of the backbone; leaky_relu fuses in place",
    )
    add_switch(student, "--checkpoint-blocks", "recompute the backbone's blocks in the backward pass to save memory")
    student.add_argument("--student-pretrain-model-imgnet", metavar="FILE", help="ImageNet weights of the backbone")
    student.add_argument("--S_ckpt_path", metavar="FILE", help="a checkpoint of the whole student to start from")

    distillation = parser.add_argument_group("distillation")
    distillation.add_argument("--T_ckpt_path", metavar="FILE", help="the teacher; its network is read from the file")
    requires = {}
    for flag, loss in DISTILLATION_LOSSES.items():
        before = destinations(parser)
        loss.add_arguments(parser.add_argument_group(f"{loss.name} distillation (--{flag})"))
        requires.update(dict.fromkeys(destinations(parser) - before, flag))
        add_switch(distillation, f"--{flag}", f"{loss.name} distillation")
    TaskLoss.add_arguments(parser.add_argument_group("task loss"))
    requires.update(ohem_thresh="ohem", ohem_keep="ohem", scale_range="random_scale")

    optimisation = parser.add_argument_group("optimisation")
    optimisation.add_argument("--num-steps", type=int, default=40000, help="training steps")
    optimisation.add_argument("--batch-size", type=int, default=8, help="of all processes together")
    optimisation.add_argument("--optimizer", default="sgd", choices=("adam", "sgd"), help="of the student")
    optimisation.add_argument("--lr-g", type=float, default=1e-2, help="learning rate of the student")
    optimisation.add_argument("--momentum", type=float, default=0.9, help="of sgd")
    optimisation.add_argument("--weight-decay", type=float, default=5e-4, help="of the student")
    optimisation.add_argument(
        "--power", type=float, default=0.9, help="of the poly schedule lr * (1 - step/steps)^power"
    )
    optimisation.add_argument("--seed", type=int, default=0, help="seeds weights, order, augmentation and dropout")

    run = parser.add_argument_group("run")
    run.add_argument("--snapshot-dir", type=Path, default=Path("snapshots"), help="where runs are kept")
    run.add_argument("--save-name", help="the run's folder; by default made of network, data set, terms and seed")
    add_switch(run, "--resume", "continue the run in that folder, if there is one")
    run.add_argument("--save-every", type=int, default=200, help="steps between writes of last.pth")
    run.add_argument(
        "--val-every", type=int, default=1000, help="steps between validations; the last step is always one"
    )
    run.add_argument("--log-every", type=int, default=20, help="steps between rows of metrics.jsonl")
    run.add_argument("--device", help="by default cuda if there is one, else cpu")
    add_switch(run, "--bf16", "bfloat16 autocast of both networks; losses stay in float32")
    add_switch(run, "--channels-last", "channels_last memory format", default=True)
    return parser, requires


def destinations(parser: argparse.ArgumentParser) -> set[str]:
    return set(vars(parser.parse_args([])))


def parse_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check; exits with a message that names the flag and the remedy."""
    parser, requires = make_parser()
    options = parser.parse_args(argv)
    # argparse fills in a default only where the namespace has no value yet, so what is not None was given.
    blank = argparse.Namespace(**dict.fromkeys(vars(options)))
    given = {name for name, value in vars(parser.parse_args(argv, blank)).items() if value is not None}

    for problem in contradictions(options, given, requires):
        parser.error(problem)
    options.memory_format = torch.channels_last if options.channels_last else torch.contiguous_format
    options.terms = [flag for flag in DISTILLATION_LOSSES if getattr(options, flag)]
    if options.save_name is None:
        terms = "+".join(options.terms) or "alone"
        options.save_name = "_".join(filter(None, (options.network, options.backbone, options.dataset, terms)))
        options.save_name += f"_seed{options.seed}"
    return options


def contradictions(options: argparse.Namespace, given: set[str], requires: dict[str, str]) -> list[str]:
    """What is wrong with the options, each as a sentence."""
    problems = [
        f"--{flag.replace('_', '-')} has no effect without --{switch.replace('_', '-')}"
        for flag, switch in requires.items()
        if flag in given and not getattr(options, switch)
    ]
    distilling = any(getattr(options, flag) for flag in DISTILLATION_LOSSES)
    switches = ", ".join(f"--{flag}" for flag in DISTILLATION_LOSSES)
    if distilling and not options.T_ckpt_path:
        problems.append(f"distillation needs a teacher: --T_ckpt_path FILE, or none of {switches}")
    if options.T_ckpt_path and not distilling:
        problems.append(f"--T_ckpt_path has no effect without one of {switches}")
    takes_backbone = NETWORKS[options.network].takes_backbone
    if takes_backbone and not options.backbone:
        problems.append(f"{options.network} needs --backbone, one of {', '.join(sorted(BACKBONES))}")
    of_backbone = {"backbone", "activation", "checkpoint_blocks", "student_pretrain_model_imgnet"}
    for flag in given & ({"p", "q"} if takes_backbone else of_backbone):
        problems.append(f"--{flag.replace('_', '-')} has no effect with {options.network}")
    if options.S_ckpt_path and options.student_pretrain_model_imgnet:
        problems.append("--S_ckpt_path and --student-pretrain-model-imgnet both set the student's weights: give one")
    if options.ho and options.adv_loss_type == "hinge" and "lambda_gp" in given:
        problems.append("--lambda-gp has no effect with --adv-loss-type hinge, which has no gradient penalty")
    if options.optimizer == "adam" and "momentum" in given:
        problems.append("--momentum has no effect with --optimizer adam")
    on_cpu = (options.device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cpu"
    if options.bf16 and on_cpu and options.network.startswith("espnet"):
        problems.append(
            "--bf16 on the CPU gives wrong gradients in ESPNet's dilated convolutions (seen with torch 2.12)"
        )
    if options.dataset != "scenes" and not options.data_dir:
        problems.append(f"--dataset {options.dataset} needs --data-dir")
    return problems


def network_arguments(options: argparse.Namespace) -> dict:
    """The student's arguments for ``build_network``."""
    arguments = {"name": options.network, "norm": options.norm}
    if NETWORKS[options.network].takes_backbone:
        names = ("backbone", "activation", "checkpoint_blocks")
        return {**arguments, **{name: getattr(options, name) for name in names}}
    return {**arguments, "p": options.p, "q": options.q}
