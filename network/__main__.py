"""The network tool.

python -m segdistill.network                                              the networks and their settings
python -m segdistill.network pspnet backbone=resnet18 --size 512 1024     what one costs, and its features
python -m segdistill.network fetch espnet_cityscapes_q8                   released weights, checked, to ckpt/
python -m segdistill.network convert their.pth ckpt/ours.pth              convert a supported file to our format
python -m segdistill.network export best.pth student.onnx                 a file that other runtimes run
python -m segdistill.network export alone.pth distilled.pth demo.html     a page for browsers: pictures and the camera
python -m segdistill.network push best.pth USER/REPO                      to the Hugging Face hub, with a model card

A file may be on the hub: hf://USER/REPO, hf://USER/REPO@REVISION/FILE.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from segdistill.dataset import DATASETS, build_dataset
from segdistill.dataset.base import evenly_spaced
from segdistill.dataset.files import read_image
from segdistill.dataset.normalization import parse_normalization
from segdistill.network import HIDDEN, NETWORKS, SegmentationNetwork, load_network, network_class
from segdistill.network.cost import Cost, cost_of
from segdistill.network.export import FORMATS, OUTPUTS, Difference, deploy, export_network, format_of, onnx, page
from segdistill.network.export.base import sample_pictures
from segdistill.network.export.network import ExportedNetwork, count_parameters
from segdistill.network.external.program import has_program
from segdistill.network.int8 import NUM_IMAGES, calibrate, int8_layers, leave_in_float
from segdistill.network.settings import describe_settings, parse_settings, settings_of
from segdistill.network.weights.checkpoint import LoadReport, convert
from segdistill.network.weights.fetch import describe_files, fetch
from segdistill.network.weights.hub import push
from segdistill.network.weights.shapes import on_meta
from segdistill.utils.checkpoint import load_required
from segdistill.utils.classes import classes_and_colors
from segdistill.utils.files import read_json
from segdistill.utils.flags import Parser, add_switch, count, number, run_command
from segdistill.utils.pictures import checkpoint_names, picture_files
from segdistill.utils.tasks.depth import colors_of

PROGRAM = "python -m segdistill.network"
LEAST_IMAGES = 4  # that int8 is calibrated on
NUM_COLORS = 256  # of depth on a page
KEEP = 0.99  # of the pixels keep their class in int8


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    tools = {"fetch": fetch_file, "convert": convert_file, "export": export_file, "push": push_file}
    if argv and argv[0] in tools:
        return tools[argv[0]](argv[1:])
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
    parser.add_argument("name", help="of a network, or fetch, convert, export, push")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="the network's own")
    parser.add_argument(
        "--size", type=count, nargs=2, default=(512, 1024), metavar=("H", "W"), help="of the images (512 1024)"
    )
    parser.add_argument("--classes", type=count, default=19, metavar="C", help="(19)")
    options = parser.parse_args(argv)
    settings = parse_settings(network_class(options.name), options.settings, options.name, hidden=HIDDEN)
    if has_program(options.name):
        network, report = load_network(options.name, trusted=[options.name])
        print(f"{options.name}, {report}\n\n{format_features(network)}")
        return 0
    network = on_meta({"name": options.name, "num_classes": options.classes, **settings})
    if not next(network.parameters()).is_meta:  # a module that cannot be run without values
        print(format_features(network))
        return 0
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


def format_features(network: SegmentationNetwork) -> str:
    """Channels and strides of the features as lines of text."""
    lines = [f"{'feature':40} {'channels':>8}  {'stride':>6}"]
    return "\n".join([*lines, *(f"{name:40} {c:8}  {stride:6}" for name, (c, stride) in network.features.items())])


def fetch_file(argv: Sequence[str]) -> int:
    parser = Parser(
        prog=f"{PROGRAM} fetch",
        description="Fetch released weights; what broke off is continued, what is there is checked.",
        epilog="Without a name: the names.",
    )
    parser.add_argument("name", nargs="?", help="or hf://USER/REPO, which goes to the hub's own cache")
    parser.add_argument("--folder", type=Path, default=Path("ckpt"), metavar="DIR", help="where to (ckpt)")
    options = parser.parse_args(argv)
    if not options.name:
        print(describe_files())
    elif Path(options.name).is_absolute():  # the parser has fetched it from the hub
        print(options.name)
    else:
        print(fetch(options.name, options.folder))
    return 0


def push_file(argv: Sequence[str]) -> int:
    parser = Parser(
        prog=f"{PROGRAM} push",
        description="Upload weights to the Hugging Face hub, with a model card made of the files beside them.",
        epilog="After `hf auth login`, or with HF_TOKEN, no --token-file is needed. HF_ENDPOINT names another server.",
    )
    parser.add_argument("file", type=Path, help="best.pth of a run, or any other that we read")
    parser.add_argument("repo", metavar="USER/REPO", help="made if there is none")
    add_switch(parser, "--private", "if it is made: only its owner sees it")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="a text file that holds the token")
    parser.add_argument("--license", metavar="NAME", help="for the card, by the hub's name: bsd-2-clause")
    parser.add_argument("--network", metavar="FILE.py:CLASS", help="of a file whose network is in a file: it is run")
    options = parser.parse_args(argv)
    if options.token_file and not options.token_file.is_file():
        parser.error(f"--token-file: no file {options.token_file}")
    from segdistill.utils.card import model_card  # slow to import

    token = options.token_file.read_text().strip() if options.token_file else None
    network, report = load_network(options.file, trusted=[options.network] if options.network else [])
    parameters = sum(parameter.numel() for parameter in network.parameters())
    card = model_card(options.file, report, parameters, f"hf://{options.repo}", options.license)
    name = "model.safetensors" if options.file.suffix == ".safetensors" else "best.pth"
    print(push({name: options.file, "README.md": card.encode()}, options.repo, options.private, token))
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


def export_file(argv: Sequence[str]) -> int:
    endings = ", ".join(f"{format.SUFFIX} ({name})" for name, format in FORMATS.items())
    parser = Parser(
        prog=f"{PROGRAM} export",
        description="Write a network as a file that other runtimes run: pictures of uint8 RGB in, classes out. The "
        "file is compared with the network before it is kept.",
    )
    parser.add_argument(
        "source", nargs="+", help="our own or a released checkpoint, or a library's network: hf:ID; several for a page"
    )
    parser.add_argument("output", type=Path, help=f"its ending names the format: {endings}, {page.SUFFIX} (a page)")
    parser.add_argument("--format", choices=sorted(FORMATS), help="where the ending does not tell")
    parser.add_argument("--answer", choices=OUTPUTS, help="what the file answers (classes, or depth)")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="compare on these pictures, too")
    parser.add_argument("--network", nargs="+", default=[], metavar="NAME", help="of a plain state dict")
    parser.add_argument("--network-options", nargs="+", default=[], metavar="key=value")
    parser.add_argument(
        "--runtime",
        type=Path,
        default=Path("ckpt", page.RUNTIME),
        metavar="FILE",
        help=f"of a page: {page.URL}, fetched if it is not there (ckpt/{page.RUNTIME})",
    )
    group = parser.add_argument_group(
        "int8 (.onnx)", "Convolutions compute in integers; training images give the ranges."
    )
    add_switch(group, "--int8", "needs --dataset; what train.py --quantise int8 made is int8 without it")
    group.add_argument("--dataset", choices=sorted(DATASETS), help="its training split is calibrated on")
    group.add_argument("--data-dir", metavar="DIR")
    group.add_argument("--num-images", type=number(int, LEAST_IMAGES), metavar="N", help=f"of it ({NUM_IMAGES})")
    group.add_argument(
        "--keep",
        type=number(float, 0, 1),
        metavar="S",
        help=f"convolutions stay in float until this share of their pixels keeps its class ({KEEP})",
    )
    options = parser.parse_args(argv)
    if options.int8 and not options.dataset:
        parser.error("--int8 is calibrated on training images: --dataset NAME --data-dir DIR")
    for name in ("dataset", "data_dir", "num_images", "keep"):
        if getattr(options, name) is not None and not options.int8:
            parser.error(f"--{name.replace('_', '-')} has no effect without --int8")
    is_page = options.output.suffix.lower() == page.SUFFIX
    if options.int8 and not is_page and format_of(options.output, options.format) is not onnx:
        parser.error(f"--int8 is for .onnx alone, not for {options.output}")
    if options.dataset and not (options.data_dir or DATASETS[options.dataset].DEFAULT_ROOT):
        parser.error(f"--dataset {options.dataset} needs --data-dir")
    if is_page:
        if options.format or options.answer:
            parser.error("a page shows classes or depth by ONNX: no --format and no --answer")
        export_page(options)
    elif len(options.source) > 1:
        parser.error(f"{options.output} holds one network; only a page ({page.SUFFIX}) shows several")
    else:
        (source,) = options.source
        loaded = load_required(source, options.network, options.network_options)
        differences = export_one(options, source, options.output, *loaded)
        print(f"{options.output}: {options.output.stat().st_size / 2**20:.2f} MiB, compared with {source}")
        print(difference_table(differences))
    return 0


def export_one(
    options: argparse.Namespace, source: str, output: Path, network: SegmentationNetwork, report: LoadReport
) -> list[Difference]:
    """Export a network with the scores beside its file; how the two differ."""
    pictures, calibration = sample_pictures(), None
    if options.int8:
        seen, calibration = make_int8(network, report, options)
        pictures += seen[:LEAST_IMAGES]
    if options.images:
        pictures += [read_image(file) for file in picture_files(options.images)]
    beside = Path(source).parent / "evaluation.json"
    scores = read_json(beside) if beside.is_file() else None
    if scores and scores.get("sha256") != report.sha256:
        scores = None  # of another file
    return export_network(
        network,
        report,
        output,
        name=options.format,
        output=options.answer,
        scores=scores and {key: value for key, value in scores.items() if isinstance(value, float)},
        pictures=pictures,
        calibration=calibration,
    )


def export_page(options: argparse.Namespace) -> None:
    """Write a page of all sources; an ONNX file is taken as it is, others are exported and compared first."""
    names = checkpoint_names([Path(source) for source in options.source])
    shown = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, source in zip(names, options.source, strict=True):
            network, report = load_required(source, options.network, options.network_options)
            file = Path(source)
            if not isinstance(network, ExportedNetwork):
                file = Path(folder, f"{name}{onnx.SUFFIX}")
                print(f"{source}, as ONNX:\n{difference_table(export_one(options, source, file, network, report))}")
            elif file.suffix.lower() != onnx.SUFFIX or network.runner.metadata["output"] not in ("classes", "depth"):
                raise ValueError(
                    f"{source}: of exported files a page takes those for ONNX that answer classes or depth"
                )
            classes, colors = classes_and_colors(network, report)
            if network.depth:
                colors = colors_of(np.geomspace(*network.depth[:2], NUM_COLORS)[None], network.depth)[0].tolist()
            shown[name] = page.Shown(file, count_parameters(network), classes, colors, network.depth)
        page.write_page(shown, options.output, options.runtime)
    print(f"{options.output}: {options.output.stat().st_size / 2**20:.2f} MiB, opens in any browser")


def make_int8(
    network: SegmentationNetwork, report: LoadReport, options: argparse.Namespace
) -> tuple[list[Tensor], dict]:
    """Turn the network's convolutions into int8 as the options say; returns the pictures, and what to say of it."""
    dataset = build_dataset(options.dataset, options.data_dir, labelled=False)
    if len(dataset) < LEAST_IMAGES:
        raise ValueError(f"{dataset.root} has {len(dataset)} training images; --int8 needs {LEAST_IMAGES} or more")
    chosen = evenly_spaced(options.num_images or NUM_IMAGES, len(dataset))
    pictures, module = [dataset.read(index).image for index in chosen], deploy(network, report)
    images = [module.shown(picture[None]) for picture in pictures]
    calibrate(network, images)
    in_float, kept = leave_in_float(network, images, KEEP if options.keep is None else options.keep)
    print(
        f"int8: {len(int8_layers(network))} convolutions, {len(in_float)} left in float; {kept:.2%} of the pixels of "
        f"{len(images)} training images keep their class"
    )
    for name in in_float:
        print(f"  float: {name}")
    return pictures, {"dataset": options.dataset, "num_images": len(images), "kept": kept}


def difference_table(differences: Sequence[Difference]) -> str:
    """One line a size: pictures, pixels, pixels that change their class, the largest difference over the logits'."""
    lines = [f"{'size':>11}  {'pixels':>9}  {'changed':>7}  largest difference"]
    for one in differences:
        largest = "-" if one.largest is None else f"{one.largest:.1e}"
        lines.append(f"{'{}x{}'.format(*one.size):>11}  {one.pixels:9}  {one.changed:7}  {largest}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
