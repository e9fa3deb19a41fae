"""The network tool.

python -m segdistill.network                                              the networks and their settings
python -m segdistill.network pspnet backbone=resnet18 --size 512 1024     what one costs, and its features
python -m segdistill.network fetch espnet_cityscapes_q8                   released weights, checked, to ckpt/
python -m segdistill.network convert their.pth ckpt/ours.pth              convert a supported file to our format
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from segdistill.dataset.normalization import parse_normalization
from segdistill.network import HIDDEN, NETWORKS, build_network, network_class
from segdistill.network.cost import Cost, cost_of
from segdistill.network.settings import describe_settings, parse_settings, settings_of
from segdistill.network.weights.checkpoint import convert
from segdistill.network.weights.fetch import describe_files, fetch
from segdistill.utils.flags import Parser, count, run_command

PROGRAM = "python -m segdistill.network"


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["fetch"]:
        return fetch_file(argv[1:])
    if argv[:1] == ["convert"]:
        return convert_file(argv[1:])
    if argv:
        return describe(argv)
    print(list_networks())
    return 0


def list_networks() -> str:
    """The networks with their settings."""
    parts = []
    for name, network in sorted(NETWORKS.items()):
        settings = {key: setting for key, setting in settings_of(network).items() if key not in HIDDEN}
        parts.append(f"{name}: {network.__doc__.strip().splitlines()[0]}\n{describe_settings(settings)}")
    return "\n\n".join([*parts, f"{PROGRAM} NAME key=value ... tells what one costs; --help what else there is."])


def describe(argv: Sequence[str]) -> int:
    parser = Parser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    parser.add_argument("name", help="of a network, or fetch, or convert")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="the network's own")
    parser.add_argument(
        "--size", type=count, nargs=2, default=(512, 1024), metavar=("H", "W"), help="of the images (512 1024)"
    )
    parser.add_argument("--classes", type=count, default=19, metavar="C", help="(19)")
    options = parser.parse_args(argv)
    settings = parse_settings(network_class(options.name), options.settings, options.name, hidden=HIDDEN)
    with torch.device("meta"):
        network = build_network(options.name, options.classes, **settings)
    size = tuple(options.size)
    print(f"{' '.join([options.name, *options.settings])}, {options.classes} classes, images of {size[0]}x{size[1]}\n")
    print(format_cost(cost_of(network, size), size))
    return 0


def format_cost(cost: Cost, size: tuple[int, int]) -> str:
    """The cost as lines of text."""
    lines = [
        f"parameters   {cost.parameters:,}",
        f"MACs         {cost.macs / 1e9:.2f} G  multiply-accumulates of an image's logits, auxiliary heads left out",
        f"FLOPs        {cost.macs / 5e8:.2f} G  2 x MACs",
        f"activations  {cost.activations / 2**20:.1f} MiB  an image keeps for the backward pass, float32, its loss too",
        "",
        f"{'feature':15} {'channels':>8}  {'stride':>6}  size",
    ]
    for name, (channels, height, width) in cost.sizes.items():
        lines.append(f"{name:15} {channels:8}  {cost.strides[name]:6}  {height}x{width}")
    return "\n".join(lines)


def fetch_file(argv: Sequence[str]) -> int:
    parser = Parser(
        prog=f"{PROGRAM} fetch",
        description="Fetch released weights; what broke off is continued, what is there is checked.",
        epilog="Without a name: the names.",
    )
    parser.add_argument("name", nargs="?")
    parser.add_argument("--folder", type=Path, default=Path("ckpt"), metavar="DIR", help="where to (ckpt)")
    options = parser.parse_args(argv)
    print(fetch(options.name, options.folder) if options.name else describe_files())
    return 0


def convert_file(argv: Sequence[str]) -> int:
    parser = Parser(
        prog=f"{PROGRAM} convert",
        description="Make our own file of any that we read; nothing in it is run. A bare state dict needs its network.",
    )
    parser.add_argument("source")
    parser.add_argument("output", type=Path)
    parser.add_argument("--network", metavar="NAME", help="where the file does not tell")
    parser.add_argument("--network-options", nargs="+", default=[], metavar="key=value", help="the network's own")
    parser.add_argument("--classes", metavar="A,B,...", help="their names, by commas")
    parser.add_argument("--entry", metavar="NAME", help="which to take of several networks in one file")
    parser.add_argument(
        "--normalization",
        metavar="NAME",
        help="where the file does not tell: imagenet, unit, caffe, half or RGB:mean,mean,mean:std,std,std",
    )
    options = parser.parse_args(argv)
    if options.network_options and not options.network:
        parser.error("--network-options needs --network NAME")
    described = None
    if options.network:
        settings = parse_settings(
            network_class(options.network), options.network_options, options.network, hidden=HIDDEN
        )
        described = {"name": options.network, **settings}
    print(
        convert(
            options.source,
            options.output,
            described=described,
            entry=options.entry,
            classes=[name.strip() for name in options.classes.split(",")] if options.classes else None,
            normalization=parse_normalization(options.normalization) if options.normalization else None,
        )
    )
    return 0


if __name__ == "__main__":
    run_command(main)
