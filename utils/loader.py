"""Loader processes that behave."""

import os
import signal
import threading
from collections.abc import Iterator

import torch

from segdistill.utils.flags import USER_ERRORS

# Ctrl-C and torchrun's or a scheduler's SIGTERM go to every process of a job.
SENT_TO_ALL = {signal.SIGINT, signal.SIGTERM}


class Loader(torch.utils.data.DataLoader):
    """A DataLoader whose processes leave signals to the one they serve, and whose errors arrive as they were raised."""

    def __init__(self, dataset: torch.utils.data.Dataset, **options):
        super().__init__(dataset, worker_init_fn=obey_the_parent_only, **options)

    def __iter__(self) -> Iterator:
        try:
            # The processes inherit the mask, so that there is no instant at which a signal could end them.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SENT_TO_ALL)
            try:
                batches = super().__iter__()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield from batches
        except USER_ERRORS as error:
            # From a process it arrives as the text of its traceback.
            head, _, message = str(error).rpartition(f"\n{type(error).__name__}: ")
            if not head:
                raise
            raise type(error)(message.rstrip()) from None


def obey_the_parent_only(worker: int) -> None:
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, SENT_TO_ALL)
    threading.Thread(target=exit_when_the_parent_says, daemon=True).start()


def exit_when_the_parent_says() -> None:
    # Without it, a parent that ends in the middle of an epoch would wait for ever.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
