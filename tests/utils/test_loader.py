"""Errors of the data loader's worker processes: one line, the same as without workers."""

import os
import signal

import pytest
import torch

from segdistill.utils.loader import Loader


class Failing(torch.utils.data.Dataset):
    """Does ``fault`` at the third of its 8 items."""

    def __init__(self, fault):
        self.fault = fault

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 2:
            self.fault()
        return torch.zeros(1)


def bad_file():
    raise ValueError("label 3.png holds values [77]")


def no_shared_memory():
    raise RuntimeError("unable to mmap 12 bytes from file </torch_1>: Cannot allocate memory (12)")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def bus_error():
    os.kill(os.getpid(), signal.SIGBUS)


def own_defect():
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_of_a_worker_is_the_error_that_was_raised(num_workers):
    with pytest.raises(ValueError, match=r"\Alabel 3\.png holds values \[77\]\Z"):
        list(Loader(Failing(bad_file), num_workers=num_workers))


@pytest.mark.parametrize("fault", [killed, no_shared_memory, bus_error])
def test_a_lost_worker_is_one_line_that_names_the_flag(fault):
    before = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(OSError, match=r"\Aa worker of the data loader ended.*--num-workers 2 \(0 needs neither\)\Z"):
        list(Loader(Failing(fault), num_workers=2))
    assert signal.getsignal(signal.SIGCHLD) == before


def test_a_defect_of_ours_keeps_its_traceback():
    with pytest.raises(RuntimeError, match=r"Traceback[^$]*mat1 and mat2"):
        list(Loader(Failing(own_defect), num_workers=1))
