"""Training steps of several programs, timed in turn, each in a process of its own, which has its own peak of memory."""

import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch

Step = Callable[[], None]


def compare(builders: Mapping[str, Callable[[], Step]], repeats: int, images: int, device: str) -> None:
    """Print a table of medians and peaks, with their ratios to the first builder's.

    Args:
        builders: of steps, by name; they are pickled.
        repeats: timed steps of each, after one that warms up.
        images: of a step.
    """
    context, workers = get_context("spawn"), {}
    for name, build in builders.items():
        orders, theirs = context.Pipe()
        context.Process(target=work, args=(build, device, theirs), daemon=True).start()
        theirs.close()  # so that a worker that fails is noticed
        workers[name] = orders
    times, peaks = {name: [] for name in workers}, {}
    for repeat in range(repeats + 1):
        for name, orders in workers.items():
            orders.send(True)
            seconds, peaks[name] = orders.recv()
            if repeat:
                times[name].append(seconds)
    for orders in workers.values():
        orders.send(False)
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    print(f"torch {torch.__version__}, {machine}, {torch.get_num_threads()} threads, {repeats} repeats")
    print("                    median s       min       max  ratio  images/s  peak GiB  ratio")
    first = next(iter(workers))
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(
            f"{name:18}  {median:8.3f}  {min(seconds):8.3f}  {max(seconds):8.3f}"
            f"  {median / statistics.median(times[first]):5.2f}  {images / median:8.2f}"
            f"  {peaks[name] / 2**30:8.2f}  {peaks[name] / peaks[first]:5.2f}"
        )


def work(build: Callable[[], Step], device: str, orders: Connection) -> None:
    """Answer each order, until one is False, with the seconds of a step and, in bytes, the peak memory so far."""
    torch.manual_seed(0)
    step = build()
    while orders.recv():
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        on_host = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        orders.send((seconds, torch.cuda.max_memory_allocated() if device == "cuda" else on_host))
