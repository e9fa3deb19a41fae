"""What stands in the place of a file that is written."""

import multiprocessing
import os

import pytest

from segdistill.libs.files import replacing


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    for target in ("real/old.txt", "real/new.txt"):
        link = tmp_path / "link.txt"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        (tmp_path / "real/old.txt").write_text("old")
        with replacing(link, "w") as file:
            file.write("new")
        assert link.is_symlink()
        assert (tmp_path / target).read_text() == "new"
    assert sorted(os.listdir(tmp_path / "real")) == ["new.txt", "old.txt"]


@pytest.mark.parametrize("redirected", [False, True], ids=["a pipe", "a file"])
def test_standard_output_is_written_to_and_stays_what_it_is(redirected, tmp_path):
    path = tmp_path / "out.txt"
    reader, writer = (None, os.open(path, os.O_WRONLY | os.O_CREAT)) if redirected else os.pipe()

    def write():
        os.dup2(writer, 1)
        os.write(1, b"first\n")
        with replacing("/dev/stdout", "w") as file:
            file.write("second\n")

    process = multiprocessing.get_context("fork").Process(target=write)
    process.start()
    process.join()
    assert process.exitcode == 0
    written = path.read_bytes() if redirected else os.read(reader, 100)
    assert written == b"first\nsecond\n"
    assert os.fstat(writer).st_ino == (path.stat().st_ino if redirected else os.fstat(reader).st_ino)
    assert os.listdir(tmp_path) == ["out.txt"] * redirected


def test_a_failure_leaves_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def broken():
        with replacing(tmp_path / "a.txt", "w") as file:
            file.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
