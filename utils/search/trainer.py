"""train.py as a process, for one student or several beside each other."""

import shlex
import subprocess
from collections.abc import Collection, Mapping, Sequence
from typing import IO


class Trainer:
    """Starts train.py.

    Args:
        command: what starts it: ``["python", "train.py"]``.
        common: flags of every student.
        teaching: flags of the teacher and of images without labels, which a student alone does not have.
    """

    def __init__(self, command: Sequence[str], common: Sequence[str], teaching: Sequence[str]):
        self.command, self.common, self.teaching = command, common, teaching

    def words(self, students: Mapping[str, Sequence[str]], *more: str) -> list[str]:
        """train.py's arguments; ``students``: methods of each by name, of a student alone []."""
        (name, terms), *others = students.items()
        also = [word for other in others for word in ("--also", f"{other[0]}={shlex.join(other[1])}")]
        return [*self.common, *(self.teaching if terms else ()), "--save-name", name, *terms, *also, *more]

    def run(self, students: Mapping[str, Sequence[str]], *more: str, locks: Collection[IO] = ()) -> int:
        """Train, or continue; returns the exit code, 128 + the signal's number if one ended it.

        ``locks``: files whose locks are held until the process has ended, even if this one ends before.
        """
        command = [*self.command, *self.words(students, *more)]
        with subprocess.Popen(command, pass_fds=[file.fileno() for file in locks]) as process:
            try:
                code = process.wait()
            except BaseException:  # Ctrl-C or SIGTERM: train.py saves its step
                process.terminate()
                process.wait()
                raise
        return code if code >= 0 else 128 - code
