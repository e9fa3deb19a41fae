"""Work on items by threads, while others work on the items before and after them.

    images = ahead(read_image, files)
    for file in ahead(write, ((file, predict(image)) for file, image in zip(files, images))):
        ...

reads the next images and writes the last predictions while the caller predicts.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")

THREADS = min(os.cpu_count() or 1, 8)


def ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int = THREADS) -> Iterator[Result]:
    """``function`` of each item, in their order, computed ahead by ``threads``; for functions that release Python's
    lock, as decoders and encoders of images do.

    Items are taken in the caller's thread, at most ``threads`` more than results were given, so memory does not grow
    with their number.

    Raises: the first item's error that ``function`` raises; what has begun is ended, and nothing more begins.
    """
    pool, waiting = ThreadPoolExecutor(threads), deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def prefetched(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, of which a thread fetches the next ones meanwhile, in order: as a video has to be decoded."""
    source, end = iter(items), object()
    for item in ahead(lambda _: next(source, end), repeat(None), threads=1):
        if item is end:
            return
        yield item
