"""Every network in every format of exported files: how far its answers are off, its size, its latency.

    python benchmarks/export.py                                   # networks x formats, latency at 256x512 on one thread
    python benchmarks/export.py --networks espnet --formats onnx ncnn --size 360 480
    python benchmarks/export.py --repeats 0                       # without latency

Random weights, 19 classes. Off: of the logits over the greatest, at seven sizes; changed: pixels of these whose class
differs, ties aside. Latency: from a picture in uint8 to its classes, as a ratio to PyTorch's eager mode; both are timed
alternately, so that other work on the machine affects both, and the medians are compared.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from segdistill.dataset.normalization import IMAGENET
from segdistill.network import NETWORKS, build_network
from segdistill.network.export import FORMATS, export_network, open_exported
from segdistill.network.export.base import SIZES, Deployed, compare, sample_pictures
from segdistill.network.weights.checkpoint import describe

BACKBONES = {"deeplabv3plus": "mobilenetv2", "segformer": "mit_b0", "espnet": None, "espnet_c": None}
OTHER_SIZES = ((97, 131), (64, 200), (480, 640), (720, 960))  # not compared while exporting; 10^6 pixels
WARM_UP = 5


def milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def row(name: str, kind: str, size: tuple[int, int], repeats: int) -> str:
    """A line of the table."""
    torch.manual_seed(0)
    backbone = BACKBONES.get(name, "resnet18")
    network = build_network(name, 19, **({"backbone": backbone} if backbone else {})).eval()
    report = describe(network)
    report.normalization = IMAGENET
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{name}{FORMATS[kind].SUFFIX}")
        try:
            found = export_network(network, report, path, name=kind, output="logits")
        except ValueError as error:
            return f"{name:14} | {kind:10} | {str(error).replace(folder, '')}"
        logits = Deployed(network, IMAGENET, None, "logits").eval()
        found += compare(logits, open_exported(path), sample_pictures(OTHER_SIZES), FORMATS[kind].TOLERANCE)
        stored = sum(file.stat().st_size for file in Path(folder).iterdir())
        off, changed = max(one.largest for one in found), sum(one.changed for one in found)
        figures = f"{name:14} | {kind:10} | {off:.1e} | {changed:7} | {stored / 2**20:8.2f}"
        if not repeats:
            return figures
        export_network(network, report, path, name=kind, pictures=())
        runner, module = open_exported(path), Deployed(network, IMAGENET).eval()
        (picture,) = sample_pictures([size])
        with torch.no_grad():
            pairs = [
                (milliseconds(lambda: module(picture[None])), milliseconds(lambda: runner.run(picture[None].numpy())))
                for _ in range(WARM_UP + repeats)
            ][WARM_UP:]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    return f"{figures} | {ours:8.1f} | {theirs:8.1f} | {theirs / ours:.2f} | {runner.runtime}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=sorted(NETWORKS))
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--size", type=int, nargs=2, default=(256, 512), metavar=("H", "W"), help="of the latency")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30, help="timed rounds; 0: no latency")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"compared at {', '.join('{}x{}'.format(*size) for size in (*SIZES, *OTHER_SIZES))}")
    print("network        | format     | off     | changed | MiB      | PyTorch ms | its ms | ratio | runtime")
    for name in options.networks:
        for kind in options.formats:
            print(row(name, kind, tuple(options.size), options.repeats), flush=True)


if __name__ == "__main__":
    main()
