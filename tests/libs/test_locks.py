"""Locks, and what stands in for them where a file system has none or keeps them from other machines."""

import errno
import fcntl

import pytest

from segdistill.libs import locks


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def no_locks(request, monkeypatch):
    def refuse(*_):
        raise OSError(request.param, "refused")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_file_is_locked_until_it_is_closed(tmp_path):
    with (tmp_path / "a").open("w") as first, (tmp_path / "a").open("w") as second:
        assert locks.lock(first)
        with pytest.raises(BlockingIOError):
            locks.lock(second, wait=False)
        first.close()
        assert locks.lock(second, wait=False)


def test_without_locks_there_is_one_line(no_locks, tmp_path, caplog):
    with (tmp_path / "a").open("w") as file:
        assert not locks.lock(file, wait=False)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path}/a: no file locks here (refused)")


def test_other_errors_stay_errors(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", fail)
    with (tmp_path / "a").open("w") as file, pytest.raises(OSError, match="broken"):
        locks.lock(file)
