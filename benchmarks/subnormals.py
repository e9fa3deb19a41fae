"""What the numbers next to 0 in a file of weights cost, float32 on the CPU: passes of the file's weights and of ours.

    python benchmarks/subnormals.py FILE [FILE ...]

Ours are the file's without those nearer to 0 than the smallest normal number, as every loading leaves them. Both
networks take turns: a forward pass alone and a training step of 4 images of 240x320.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from segdistill.network import load_network
from segdistill.network.weights.checkpoint import read_weights


def forward(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    with torch.inference_mode():
        network.eval()(images)


def train(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    logits = network.train()(images).logits
    F.cross_entropy(F.interpolate(logits, size=labels.shape[1:], mode="bilinear"), labels).backward()


def seconds(run: Callable[..., None], *arguments: object) -> float:
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    images = torch.randn(4, 3, 240, 320)
    labels = torch.randint(0, 11, (4, 240, 320))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.repeats} repeats, medians")
    for file in options.files:
        weights = read_weights(file)
        values = [value for value in weights.state_dict.values() if value.is_floating_point()]
        tiny = torch.finfo(torch.float32).tiny
        count = sum(int(((value != 0) & (value.abs() < tiny)).sum()) for value in values)
        ours, _ = load_network(file)
        theirs = copy.deepcopy(ours)
        theirs.load_state_dict(weights.state_dict, strict=False)
        print(f"{file}: {count} subnormal weights of {sum(value.numel() for value in values)}")
        for run in (forward, train):
            times = {"theirs": [], "ours": []}
            for repeat in range(options.repeats + 1):
                for name, network in (("theirs", theirs), ("ours", ours)):
                    took = seconds(run, network, images, labels)
                    if repeat:
                        times[name].append(took)
            old, new = (statistics.median(times[name]) for name in ("theirs", "ours"))
            print(f"  {run.__name__:8} {old:.3f} s, without them {new:.3f} s: {new / old:.2f}")


if __name__ == "__main__":
    main()
