"""An interpreter that has imported PyTorch already: scripts that start Python many times are tested in seconds.

``serve`` imports once and forks a process for every call of the stand-in, which behaves as ``python`` does: arguments,
environment, folder, standard streams, exit code. A call that is killed takes its process with it.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from warm import warm_up

STAND_IN = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(call).to_bytes(8, "big")], [0, 1, 2])
server.sendall(call)
sys.exit(int(server.recv(16) or 1))
"""


@contextmanager
def started_interpreter(folder: Path) -> Iterator[str]:
    """The path of an executable that stands in for ``python``."""
    address, stand_in = folder / "socket", folder / "python"
    stand_in.write_text(STAND_IN.format(python=sys.executable, address=str(address)))
    stand_in.chmod(0o755)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, __file__, str(address)], env=environment, stdout=subprocess.PIPE)
    assert server.stdout.readline() == b"ready\n"
    yield str(stand_in)
    server.kill()
    server.wait()


def serve(address: str) -> None:
    warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forked processes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                run(connection)
            connection.close()


def run(connection: socket.socket) -> None:
    """Do what the call asks for, and end."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    call = b""
    while len(call) < int.from_bytes(head, "big"):
        call += connection.recv(1 << 16)
    arguments, folder, environment = json.loads(call)
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=end_with, args=[connection], daemon=True).start()
    code = 0
    try:
        if arguments[0] == "-m":
            sys.argv, sys.path[0] = arguments[1:], folder
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).resolve().parent)
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    connection.send(str(code).encode())
    os._exit(code & 255)


def end_with(connection: socket.socket) -> None:
    """Kill this process and its children when the stand-in is gone."""
    connection.recv(1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    serve(sys.argv[1])
