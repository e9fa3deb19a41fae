"""The prediction protocol: options of eval.py and test.py, as plain data that is stored in evaluation.json."""

import argparse
from collections.abc import Mapping, Sequence

from segdistill.network import SegmentationNetwork
from segdistill.network.base import CLASS_FEATURES
from segdistill.utils.flags import Parser, add_switch, count, number
from segdistill.utils.predict import Predictor, multi_scale, resized, sliding, whole

# As eval.py and test.py predict without any flag.
WHOLE_IMAGES = {"predict": "whole", "scales": [1.0], "flip": False, "input_size": None}


def add_protocol_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("protocol")
    group.add_argument("--predict", choices=("whole", "sliding"), default="whole", help="images in one piece (default)")
    group.add_argument("--tile", nargs=2, type=count, metavar=("H", "W"), help="of --predict sliding")
    group.add_argument("--overlap", type=number(float, 0, 0.99), metavar="SHARE", help="of neighbouring tiles (1/3)")
    group.add_argument("--scales", nargs="+", type=number(float, above=0), default=[1.0], metavar="S")
    add_switch(group, "--flip", "also mirrored; the probabilities of scales and views are averaged")
    shown = group.add_mutually_exclusive_group()
    shown.add_argument(
        "--input-size", nargs=2, type=count, metavar=("H", "W"), help="that images are shown at (the weights' own)"
    )
    shown.add_argument(
        "--input-scale",
        type=number(float, above=0),
        metavar="S",
        help="the same as a factor; 1 is the images' own size",
    )
    group.add_argument("--batch-size", type=count, default=1, metavar="N", help="images, or tiles, shown together (1)")


def protocol_of(options: argparse.Namespace, parser: Parser) -> dict:
    """The prediction options as plain data; exits with an error if they contradict each other.

    ``input_size`` None: the input size of the weights.
    """
    if options.predict == "whole" and (options.tile or options.overlap is not None):
        parser.error("--tile and --overlap have no effect without --predict sliding")
    if options.predict == "sliding" and not options.tile:
        parser.error("--predict sliding needs --tile H W")
    protocol = {"predict": options.predict}
    if options.predict == "sliding":
        protocol |= {"tile": options.tile, "overlap": 1 / 3 if options.overlap is None else options.overlap}
    shown = options.input_scale or options.input_size
    return protocol | {"scales": options.scales, "flip": options.flip, "input_size": shown}


def build_predictor(
    network: SegmentationNetwork,
    protocol: Mapping,
    input_size: Sequence[int] | None,
    batch_size: int = 1,
    feature: str = "logits",
) -> Predictor:
    """The predictor that a protocol describes.

    Args:
        input_size: (H, W) of the weights, if any.
        feature: the feature map to predict from; of logits the probabilities are averaged, of other maps the values.

    Raises:
        ValueError: tiles of relative depth, or the network has no such map.
    """
    predictor = whole(network, feature)
    if protocol["predict"] == "sliding":
        if network.depth and not network.depth.metric:
            raise ValueError(
                f"{network.config['name']} answers in relative depth, to a scale of each tile's own, and tiles would "
                "not fit together: --predict whole"
            )
        predictor = sliding(predictor, tuple(protocol["tile"]), protocol["overlap"], batch_size)
    if protocol["scales"] != [1] or protocol["flip"]:
        predictor = multi_scale(predictor, protocol["scales"], protocol["flip"], feature not in CLASS_FEATURES)
    shown = protocol["input_size"] or input_size
    return resized(predictor, shown) if shown else predictor


def describe(protocol: Mapping) -> str:
    """The protocol as one line of text: "whole images; scales 0.75 1; mirrored too; shown at 512x1024"."""
    parts = ["whole images"]
    if protocol["predict"] == "sliding":
        height, width = protocol["tile"]
        parts = [f"tiles of {height}x{width}, {100 * protocol['overlap']:.0f} % overlap"]
    if protocol["scales"] != [1]:
        parts.append(f"scales {' '.join(f'{scale:g}' for scale in protocol['scales'])}")
    if protocol["flip"]:
        parts.append("mirrored too")
    if shown := protocol["input_size"]:
        parts.append(f"shown at {shown:g} x" if isinstance(shown, float) else f"shown at {shown[0]}x{shown[1]}")
    if teacher := protocol.get("teacher"):
        parts.append(f"labels are the predictions of the teacher {teacher[:12]}")
        parts += [f"its input {protocol['teacher_normalization']}"] if "teacher_normalization" in protocol else []
        parts += [f"its images at {protocol['teacher_scale']:g} x"] if "teacher_scale" in protocol else []
    if "align" in protocol:
        how = {"median": "scale aligned by medians", "lstsq": "scale and shift aligned by least squares"}
        parts += [how[protocol["align"]]] if protocol["align"] in how else []
        parts += [f"crop {protocol['crop']}"] if protocol["crop"] != "none" else []
        parts.append("depth within {:g} and {:g}".format(*protocol["depth_range"]))
    if protocol["count_void"]:
        parts.append("predictions on void count as errors")
    return "; ".join(parts)
