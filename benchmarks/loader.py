"""Training crops a second of one process, with decoding and from the decoded cache.

    python benchmarks/loader.py                     # pictures drawn for it, 2048x1024
    python benchmarks/loader.py --data-dir DIR      # a Cityscapes folder
    python benchmarks/loader.py --data-dir DIR --data-list FILE

Crops of 512x512 without scaling, which would cost both the same. Every image is read once before the clock starts.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import torch

from segdistill.dataset import SegmentationDataset, build_dataset
from segdistill.dataset.cache import open_cache
from segdistill.dataset.scenes.generator import generate
from segdistill.dataset.transforms import RandomCrop


def crops_per_second(dataset: SegmentationDataset, seconds: float) -> float:
    """Crops a second, measured for ``seconds`` seconds after one epoch of warm-up."""
    length = len(dataset)
    for index in range(length):
        dataset[0, index]
    start = time.perf_counter()
    for number in itertools.count(1):
        dataset[divmod(number + length, length)]
        elapsed = time.perf_counter() - start
        if elapsed > seconds:
            return number / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--data-list", type=Path)
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.data_dir or generate(Path(folder) / "scenes", 4, 0, 0, size=(1024, 2048))
        crop = RandomCrop((512, 512), mirror=True)
        dataset = build_dataset("cityscapes", root, "train", transform=crop, data_list=arguments.data_list)
        decoded = crops_per_second(dataset, arguments.seconds)
        dataset.memory = open_cache(dataset, Path(folder) / "cache")
        cached = crops_per_second(dataset, arguments.seconds)
    print(f"{len(dataset)} pairs: {decoded:.1f} crops/s decoded, {cached:.0f} from the cache, {cached / decoded:.0f} x")


if __name__ == "__main__":
    main()
