"""Measures the latency of a network's forward pass, and of an exported file."""

import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from tqdm import tqdm

from segdistill.network import SegmentationNetwork
from segdistill.network.export import Runner

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@torch.no_grad()
def measure_latency(
    network: SegmentationNetwork,
    size: tuple[int, int],
    batch_size: int = 1,
    dtype: str = "float32",
    repeats: int = 50,
    warm_up: int = 10,
) -> dict:
    """Time from images on the network's device to logits at the network's stride; milliseconds a batch.

    Args:
        network: in eval mode, on its device.
        size: (height, width) of the images.
        dtype: one of DTYPES; the reduced ones by autocast.

    Returns:
        Plain data: median_ms, p90_ms, images_per_second (of the median) and all that they depend on.
    """
    device = next(network.parameters()).device
    images = torch.randn(batch_size, 3, *size, device=device).contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "float32"):
        times = milliseconds(lambda: network(images), device, repeats, warm_up)
    conditions = {"dtype": dtype, "device": name_of(device), "runtime": f"PyTorch {torch.__version__}"}
    return summarise(times, size, batch_size) | conditions


def measure_exported(
    runner: Runner, size: tuple[int, int], batch_size: int = 1, repeats: int = 50, warm_up: int = 10
) -> dict:
    """Time from pictures in uint8 to the answer at their size, on the CPU; plain data as of ``measure_latency``."""
    images = np.random.default_rng(0).integers(0, 256, (batch_size, 3, *size), dtype=np.uint8)
    device = torch.device("cpu")
    times = milliseconds(lambda: runner.run(images), device, repeats, warm_up)
    return summarise(times, size, batch_size) | {"device": name_of(device), "runtime": runner.runtime}


def milliseconds(run: Callable[[], object], device: torch.device, repeats: int, warm_up: int) -> list[float]:
    """The times of ``repeats`` calls, after ``warm_up`` others."""
    times = []
    for _ in tqdm(range(warm_up + repeats), desc="measuring", leave=False, disable=None):
        start = now(device)
        run()
        times.append(1000 * (now(device) - start))
    return times[warm_up:]


def summarise(times: list[float], size: tuple[int, int], batch_size: int) -> dict:
    median = statistics.median(times)
    return {
        "median_ms": median,
        "p90_ms": statistics.quantiles(times, n=10, method="inclusive")[-1],
        "images_per_second": 1000 * batch_size / median,
        "size": list(size),
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "repeats": len(times),
    }


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"


def now(device: torch.device) -> float:
    """Seconds, after all work of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
