"""Freed memory is used again."""

import resource
import sys

import pytest
import torch

from segdistill.utils.allocator import keep_freed_memory


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the C library is left as it is")
def test_a_large_tensor_takes_the_place_of_the_last_one():
    keep_freed_memory()
    count, repeats = 1 << 24, 8  # 64 MiB, which glibc would map and unmap each time
    torch.zeros(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(repeats):
        torch.zeros(count)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < repeats * 4 * count / resource.getpagesize() / 2
