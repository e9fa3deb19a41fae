"""What stands in the place of a file that is written."""

import os
import subprocess
import sys

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
    code = (
        "from segdistill.libs.files import replacing\n"
        "print('first', flush=True)\n"
        "with replacing('/dev/stdout', 'w') as file:\n    file.write('second\\n')"
    )
    with (tmp_path / "out.txt").open("w") as file:
        node = os.fstat(file.fileno()).st_ino
        to = file if redirected else subprocess.PIPE
        done = subprocess.run([sys.executable, "-c", code], stdout=to, text=True, check=True)
    written = (tmp_path / "out.txt").read_text() if redirected else done.stdout
    assert written == "first\nsecond\n"
    assert (tmp_path / "out.txt").stat().st_ino == node
    assert os.listdir(tmp_path) == ["out.txt"]


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
