"""Two machines within this one: namespaces with a name, an address and a disk of their own, and a cable between them.

Nothing of them outlives the process that made them, however it ends.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

from forks import Job, server

PORT = 29500
NAMES = ("node0", "node1")
# It waits for its end of the cable, and for the line that says so.
START = """
read line
hostname "$1"
ip link set lo up
ip addr add "$2" dev eth0
ip link set eth0 up
mount --bind "$3/hosts" /etc/hosts
mount --bind "$3/disk_of_$1" "$3/disk"
shift 3
exec "$@"
"""
UNSHARE = ("unshare", "--net", "--uts", "--mount")


def obstacle() -> str | None:
    """Why there can be no such machines here; None if there can."""
    if missing := [name for name in ("unshare", "nsenter", "ip", "mount") if not shutil.which(name)]:
        return f"there is no {missing[0]}"
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return f"no network namespaces without root: {done.stderr.strip()}" if done.returncode else None


class Hosts:
    """Machines node0 and node1. ``folder`` is shared, and its ``disk`` is another one on each: ``disks`` from here."""

    def __init__(self, folder: Path):
        self.folder, self.servers, self.port = folder, [], PORT
        addresses = [f"10.77.0.{number + 1}" for number in range(len(NAMES))]
        lines = [f"{address} {name}\n" for address, name in zip(addresses, NAMES, strict=True)]
        (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
        self.disk, self.disks = folder / "disk", [folder / f"disk_of_{name}" for name in NAMES]
        for disk in (self.disk, *self.disks):
            disk.mkdir()
        for name, address in zip(NAMES, addresses, strict=True):
            self.servers.append(server(*UNSHARE, "sh", "-c", START, "sh", name, f"{address}/24", str(folder)))
        for one in self.servers:
            while os.readlink(f"/proc/{one.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
                time.sleep(0.005)
        ends = [f"eth0 netns {one.pid}".split() for one in self.servers]
        subprocess.run(["ip", "link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1]], check=True)
        for one in self.servers:
            one.stdin.write("the cable is there\n")
            one.stdin.flush()

    def start(self, number: int, words, ranks: int = 1) -> Job:
        """What torchrun does on one of the machines; both have to be started, the first one first."""
        self.port += number == 0  # that of the job before may still be held
        place = (len(NAMES), number, f"{NAMES[0]}:{self.port}")
        log = self.folder / f"{NAMES[number]}.log"
        return Job(words, log, ranks=ranks, place=place, on=self.servers[number])

    def cable(self, state: str) -> None:
        """ "down" cuts the machines off from each other, "up" joins them again."""
        enter = ["nsenter", "--target", str(self.servers[1].pid), "--net"]
        subprocess.run([*enter, "ip", "link", "set", "eth0", state], check=True)

    def close(self) -> None:
        for one in self.servers:
            one.stdin.close()
            one.wait()
