"""A DataLoader whose worker processes ignore Ctrl-C and SIGTERM, and whose errors arrive as they were raised."""

import os
import signal
import threading
from collections.abc import Iterator

import torch

from segdistill.utils.flags import USER_ERRORS

# Ctrl-C, a terminal's SIGHUP and torchrun's or a scheduler's SIGTERM go to every process of a job.
SENT_TO_ALL = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
# PyTorch's texts when a worker was killed, /dev/shm is full or the limit of open files is reached.
NO_ROOM = ("DataLoader worker", "shared memory", "ancdata", "Too many open files", "unable to mmap")


class Loader(torch.utils.data.DataLoader):
    """As ``torch.utils.data.DataLoader``.

    Raises:
        OSError: a worker was killed, or shared memory is full.
    """

    def __init__(self, dataset: torch.utils.data.Dataset, **options):
        super().__init__(dataset, worker_init_fn=obey_the_parent_only, **options)

    def __iter__(self) -> Iterator:
        try:
            yield from self._start()
        except (RuntimeError, ConnectionError, EOFError) as error:
            # A worker's error arrives as the text of its traceback.
            reason = str(error).strip().rpartition("\n")[2]
            if isinstance(error, RuntimeError) and not any(words in reason for words in NO_ROOM):
                raise
            raise OSError(
                f"a worker of the data loader ended, or had no room for its batch ({reason or 'no answer'}): memory or "
                f"/dev/shm is full; give less than --num-workers {self.num_workers} (0 needs neither)"
            ) from error
        except USER_ERRORS as error:
            head, _, message = str(error).rpartition(f"\n{type(error).__name__}: ")
            if not head:
                raise
            raise type(error)(message.rstrip()) from None

    def _start(self) -> Iterator:
        # The workers inherit the mask, so that there is no instant at which a signal could end them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SENT_TO_ALL)
        child_ended = signal.getsignal(signal.SIGCHLD)
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            # PyTorch's handler raises at any place of the program; a missing batch is noticed anyway.
            if signal.getsignal(signal.SIGCHLD) is not child_ended:
                signal.signal(signal.SIGCHLD, child_ended)


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
