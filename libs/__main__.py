"""``python -m segdistill.libs`` prints the active implementation of in-place ABN and why, ``... build`` compiles it."""

import os
import subprocess
import sys
from collections.abc import Sequence

from segdistill.libs.extension import FALLBACK
from segdistill.libs.sources import FOLDER, library_path


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["build"]:
        command = ["sh", FOLDER / "build.sh", *words[1:]]
        return subprocess.run(command, env={"PYTHON": sys.executable, **os.environ}, check=False).returncode
    for device, reason in FALLBACK.items():
        print(
            f"{device}: "
            + (f"pure PyTorch ({reason})" if reason else f"compiled kernels ({library_path(device).name})")
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
