"""Loader processes that behave."""

import os
import signal
import threading
from collections.abc import Iterator

import torch

from segdistill.utils.flags import USER_ERRORS


class Loader(torch.utils.data.DataLoader):
    """A DataLoader whose processes leave signals to the one they serve, and whose errors arrive as they were raised."""

    def __init__(self, dataset: torch.utils.data.Dataset, **options):
        super().__init__(dataset, worker_init_fn=obey_the_parent_only, **options)

    def __iter__(self) -> Iterator:
        try:
            yield from super().__iter__()
        except USER_ERRORS as error:
            # From a process it arrives as the text of its traceback.
            head, _, message = str(error).rpartition(f"\n{type(error).__name__}: ")
            if not head:
                raise
            raise type(error)(message.rstrip()) from None


def obey_the_parent_only(worker: int) -> None:
    """Ctrl-C and SIGTERM often go to every process of a job. A loader process leaves them to the one it serves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=exit_when_the_parent_says, daemon=True).start()


def exit_when_the_parent_says() -> None:
    # Ignoring SIGTERM altogether would leave the parent waiting for ever when it exits in the middle of an epoch.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
