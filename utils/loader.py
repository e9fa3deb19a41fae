"""Loader processes that behave."""

import signal
from collections.abc import Iterator

import torch

from segdistill.utils.flags import USER_ERRORS


class Loader(torch.utils.data.DataLoader):
    """A DataLoader whose processes leave signals to the one they serve, and whose errors arrive as they were raised."""

    def __init__(self, dataset: torch.utils.data.Dataset, **options):
        super().__init__(dataset, worker_init_fn=ignore_signals, **options)

    def __iter__(self) -> Iterator:
        try:
            yield from super().__iter__()
        except USER_ERRORS as error:
            # From a process it arrives as the text of its traceback.
            head, _, message = str(error).rpartition(f"\n{type(error).__name__}: ")
            if not head:
                raise
            raise type(error)(message.rstrip()) from None


def ignore_signals(worker: int) -> None:
    """Ctrl-C reaches the whole group, and so does torchrun's SIGTERM; only the process that is served answers them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
