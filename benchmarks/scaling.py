"""Images a second of two processes, over one process, and over one process with two threads; the same global batch.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --rounds 9 --steps 20

A student (PSPNet-ResNet18) alone on generated scenes, on the CPU, one thread a process. Every start is a run of
train.py, whose ``cost/step``, the median of its steps, counts: neither start nor validation. The three take turns, and
the median of the ratios within each round is printed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from segdistill.dataset.scenes.generator import generate

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# Processes and threads.
KINDS = {"1 process": ([], 1), "2 processes": (TORCHRUN, 1), "1 process, 2 threads": ([], 2)}
NETWORK = ["--network", "pspnet", "--network-options", "backbone=resnet18", "--device", "cpu", "--num-workers", "0"]


def images_per_second(kind: str, root: Path, folder: Path, batch_size: int, steps: int, size: int) -> float:
    """Of a run of train.py."""
    launcher, threads = KINDS[kind]
    data = ["--dataset", "scenes", "--data-dir", str(root), "--preload", "--input-size", f"{size},{size}"]
    counts = ["--batch-size", str(batch_size), "--num-steps", str(steps), "--log-every", str(steps)]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        words = [*NETWORK, *data, *counts, "--snapshot-dir", place, "--save-name", "run"]
        script = Path(__file__).parents[1] / "train.py"
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, *launcher, str(script), *words]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        rows = [json.loads(line) for line in (Path(place) / "run/metrics.jsonl").read_text().splitlines()]
    return batch_size / rows[-1]["cost/step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = generate(Path(folder) / "scenes", 16, 1, 0, size=(256, 512))
        given = root, Path(folder), options.batch_size, options.steps, options.size
        rounds = [{kind: images_per_second(kind, *given) for kind in KINDS} for _ in range(options.rounds)]
    for kind in KINDS:
        print(f"{kind}: {statistics.median(speeds[kind] for speeds in rounds):.2f} images/s")
    for kind in ("1 process", "1 process, 2 threads"):
        ratios = sorted(speeds["2 processes"] / speeds[kind] for speeds in rounds)
        print(f"2 processes over {kind}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
