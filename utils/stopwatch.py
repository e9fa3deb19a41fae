"""Times parts of a step, on any device, and the waiting for its data."""

import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator

import torch

RECENT = 50  # greatest number of laps in the median


class Stopwatch:
    """Context manager that times repeated work; gives the median of the last laps.

        with watch:     # once or several times
            ...
        watch.lap()     # that was the piece

    On a GPU its own clock is asked: the host waits for nothing until ``median`` is read.
    """

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.stretches: list[tuple] = []  # start and end of each, of the present lap
        self.laps: deque[list[tuple]] = deque(maxlen=RECENT)

    def __enter__(self) -> None:
        self.began = self.now()

    def __exit__(self, *error) -> None:
        self.stretches.append((self.began, self.now()))

    def now(self) -> float | torch.cuda.Event:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def lap(self) -> None:
        self.laps.append(self.stretches)
        self.stretches = []

    def median(self) -> float:
        """Seconds of a lap."""
        return statistics.median(sum(self.seconds(*stretch) for stretch in lap) for lap in self.laps)

    def seconds(self, start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
        if not self.on_gpu:
            return end - start
        end.synchronize()
        return start.elapsed_time(end) / 1000


class Waiting:
    """Iterates over batches; ``seconds`` is how long it has waited for them, in all."""

    def __init__(self, batches: Iterable):
        self.batches, self.seconds = iter(batches), 0.0

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> object:
        began = time.monotonic()
        batch = next(self.batches)
        self.seconds += time.monotonic() - began
        return batch
