"""train.py in forked copies of one process that has imported it: a new interpreter takes seconds to import torch.

``SEED`` seeds the instants of kills: SEGDISTILL_SEED=N repeats those of a run that printed N.
"""

import functools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from warm import warm_up, widen_critic

ROOT = Path(__file__).parents[1]
SEED = int(os.environ.get("SEGDISTILL_SEED") or random.randrange(10**6))
chance = random.Random(SEED)


@functools.cache
def server(*before: str) -> subprocess.Popen:
    """Started by the command ``before``, if any; ends when this process does, which closes its standard input."""
    variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [*before, sys.executable, __file__]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | variables, stdin=subprocess.PIPE, text=True)


class Job:
    """``train.py`` with ``words`` as a process of a group of its own, used in a ``with`` block that ends it.

    Args:
        log: receives its standard error.
        limit: bytes; no file that it writes grows beyond it, the log apart.
        ranks: as torchrun starts them, if more than one; ``pid`` is then torchrun's.
        place: of several machines, each of which has so many ranks: how many, which one this is, where the first is.
        on: the server there.
        wide: the critic has its full width.
    """

    def __init__(
        self, words, log: Path, limit: int | None = None, ranks: int = 1, place=None, on=None, wide: bool = False
    ):
        self.log, self.returncode = log, None
        for path in log.parent.glob(f"{log.name}.*"):
            path.unlink()
        log.write_text("")
        request = {"words": [*map(str, words)], "log": str(log), "limit": limit}
        request |= {"ranks": ranks, "place": place, "wide": wide}
        stdin = (on or server()).stdin
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        self.pid = int(self._wait_for("pid", 300))

    def _wait_for(self, kind, seconds):
        path, deadline = Path(f"{self.log}.{kind}"), time.monotonic() + seconds
        while not (path.exists() and (text := path.read_text()).endswith("\n")):
            assert time.monotonic() < deadline, f"SEGDISTILL_SEED={SEED}: no {path.name}: {self.log.read_text()}"
            time.sleep(0.005)
        return text

    def poll(self) -> int | None:
        if self.returncode is None and Path(f"{self.log}.code").exists():
            self.returncode = int(self._wait_for("code", 10))
        return self.returncode

    def wait(self, seconds=180) -> int:
        self._wait_for("code", seconds)
        return self.poll()

    def rank(self, number) -> int:
        """The process of a rank."""
        return int(self._wait_for(f"rank{number}", 300))

    def kill(self, number=signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait()


def note(log, kind, text) -> None:
    Path(f"{log}.{kind}").write_text(f"{text}\n")


def serve() -> None:
    sys.path.insert(0, str(ROOT))

    import train  # noqa: F401

    warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the watching processes
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            watch(**json.loads(line))
            return


def watch(words, log, limit, ranks, place, wide) -> None:
    """Fork once more, and note how that process ends."""
    reader, writer = os.pipe() if limit is not None else (None, os.open(log, os.O_WRONLY | os.O_APPEND))
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.dup2(writer, 2)
        for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY)):
            os.dup2(os.open(os.devnull, mode), descriptor)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if wide:
            widen_critic()
        work(words, log, ranks, place)
    note(log, "pid", pid)
    os.close(writer)
    if reader is not None:
        with os.fdopen(reader, "rb") as source:
            Path(log).write_bytes(source.read())
    note(log, "code", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def work(words, log, ranks, place) -> None:
    import train

    sys.argv = ["train.py", *words]
    if ranks == 1 and not place:
        train.run_command(train.main)
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    def rank():
        note(log, f"rank{os.environ['RANK']}", os.getpid())
        try:
            train.run_command(train.main)
        except SystemExit as end:
            # A rank of torchrun's would be gone; a fork waits to be told so, and torchrun 30 s for it to heed a signal.
            handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if end.code == 0 and handler.__self__.received:
                os.kill(os.getpid(), signal.SIGTERM)
            raise

    # What torchrun does, with --standalone or with --node-rank, but that the ranks are forks of this process.
    hosts, number, first = place or (1, 0, "localhost:0")
    meeting = {"rdzv_backend": "c10d", "run_id": str(os.getpid())}
    if place:
        meeting = {"rdzv_backend": "static", "run_id": "none", "rdzv_configs": {"rank": number, "timeout": 900}}
    config = LaunchConfig(
        hosts,
        hosts,
        ranks,
        max_restarts=0,
        start_method="fork",
        monitor_interval=0.1,
        rdzv_endpoint=first,
        **meeting,
    )
    elastic_launch(config, rank)()
    sys.exit(0)


if __name__ == "__main__":
    serve()
