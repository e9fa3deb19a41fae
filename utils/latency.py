"""Measures the latency of a network's forward pass."""

import platform
import statistics
import time

import torch
from tqdm import tqdm

from segdistill.network import SegmentationNetwork

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
    times = []
    with torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "float32"):
        for _ in tqdm(range(warm_up + repeats), desc="measuring", leave=False, disable=None):
            start = now(device)
            network(images)
            times.append(1000 * (now(device) - start))
    times = times[warm_up:]
    median = statistics.median(times)
    return {
        "median_ms": median,
        "p90_ms": statistics.quantiles(times, n=10, method="inclusive")[-1],
        "images_per_second": 1000 * batch_size / median,
        "size": list(size),
        "batch_size": batch_size,
        "dtype": dtype,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": repeats,
    }


def now(device: torch.device) -> float:
    """Seconds, after all work of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
