"""Threads that work ahead: order, bounds, errors."""

import threading
from itertools import count

import pytest

from segdistill.utils.pipeline import ahead, prefetched


def test_results_are_in_order_whichever_is_ready_first():
    ready = [threading.Event() for _ in range(6)]

    def late(index):
        """Each waits for the next one, but for every third."""
        if index % 3 != 2:
            assert ready[index + 1].wait(10)
        ready[index].set()
        return 10 * index

    assert list(ahead(late, range(6), threads=3)) == [0, 10, 20, 30, 40, 50]
    assert list(ahead(late, [], threads=3)) == []


def test_no_more_items_are_taken_than_threads_have_room_for():
    taken = []

    def items():
        for index in count():
            taken.append(index)
            yield index

    results = ahead(str, items(), threads=2)
    assert [next(results) for _ in range(4)] == ["0", "1", "2", "3"]
    assert len(taken) == 4 + 2


def test_the_first_error_is_raised_and_nothing_begins_after_it():
    begun, before = [], threading.active_count()

    def work(index):
        begun.append(index)
        if index == 3:
            raise ValueError("3.png cannot be read")

    with pytest.raises(ValueError, match=r"3\.png"):
        list(ahead(work, range(100), threads=2))
    assert len(begun) < 10
    assert threading.active_count() == before


def test_an_error_of_the_items_ends_what_has_begun():
    def items():
        yield 0
        raise OSError("the disk is full")

    done, before = [], threading.active_count()
    with pytest.raises(OSError, match="full"):
        list(ahead(done.append, items(), threads=2))
    assert threading.active_count() == before


def test_prefetched_items_are_the_same_and_so_is_their_error():
    def items():
        yield from range(5)
        raise ValueError("damaged")

    assert list(prefetched(range(5))) == [0, 1, 2, 3, 4]
    taken, source = [], prefetched(items())
    with pytest.raises(ValueError, match="damaged"):
        taken.extend(source)
    assert taken == [0, 1, 2, 3, 4]
