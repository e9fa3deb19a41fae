"""Medians of laps, whatever they are made of."""

import pytest
import torch

from segdistill.utils import stopwatch
from segdistill.utils.stopwatch import Stopwatch


@pytest.fixture
def watch(monkeypatch):
    """A watch, and what its clock says next."""
    watch, times = Stopwatch(torch.device("cpu")), []
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: times.pop(0))
    return watch, times


def measure(watch, times, *stretches):
    for seconds in stretches:
        times += [100, 100 + seconds]
        with watch:
            pass
    watch.lap()


def test_a_lap_is_the_sum_of_its_stretches_and_the_pauses_do_not_count(watch):
    measure(*watch, 1, 2)
    assert watch[0].median() == 3


def test_the_median_is_that_of_the_last_laps_and_may_be_read_again(watch):
    measure(*watch, 1000)
    for _ in range(stopwatch.RECENT):
        measure(*watch, 2)
    for _ in range(stopwatch.RECENT // 2 - 1):
        measure(*watch, 7)
    assert watch[0].median() == watch[0].median() == 2
    for _ in range(2):
        measure(*watch, 7)
    assert watch[0].median() == 7


def test_the_host_waits_for_a_gpu_when_the_median_is_read_and_not_before(monkeypatch):
    waited, clock = [], iter(range(0, 1000, 250))

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.milliseconds = next(clock)

        def synchronize(self):
            waited.append(self)

        def elapsed_time(self, end):
            assert end in waited
            return end.milliseconds - self.milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    watch = Stopwatch(torch.device("cuda"))
    for _ in range(2):
        with watch:
            pass
    watch.lap()
    assert not waited
    assert watch.median() == 0.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_asked_for_its_own_time():
    device = torch.device("cuda")
    watch, x = Stopwatch(device), torch.randn(4096, 4096, device=device)
    (x @ x).sum().item()
    with watch:
        for _ in range(100):
            x @ x
    watch.lap()
    assert watch.median() > 0.01  # more than it takes to ask for it: 14 TFLOP
