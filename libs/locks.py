"""File locks, where the file system has them."""

import errno
import fcntl
import logging
from typing import IO

# Of Linux: NFS without its lock service, others without locks, Lustre mounted without them.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
logger = logging.getLogger(__name__)


def lock(file: IO, wait: bool = True) -> bool:
    """Lock an open file until it is closed or its process ends; False, with a warning, where there are no locks.

    A network file system may keep its locks from other machines: what is locked must be right without a lock, too.

    Raises:
        BlockingIOError: another process has locked it, and ``wait`` is False.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        logger.warning("%s: no file locks here (%s), so processes do not notice each other", file.name, error.strerror)
        return False
    return True
