#!/usr/bin/env bash
# torch: without any GPU, a forked process cannot compute a gradient if its parent's first backward pass was a compiled one.
#
# Expected: on a machine with CPUs alone, forks compute gradients whatever their parent did: autograd has no threads there.
# Seen: after an eager backward pass they do; if the very first backward pass of the parent is that of a function compiled
#   by torch.compile, every backward pass in a fork, eager ones as well, raises "Unable to handle autograd's threading in
#   combination with fork-based multiprocessing". An eager backward pass before it prevents that. So whether
#   torch.multiprocessing with start_method="fork" works depends on which of two lines came first.
# Versions: torch 2.14.1, without a GPU; needs a C++ compiler.
# Output: eager works, compiled fails, eager-compiled works.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6
cat > "$folder/fork.py" <<'PYTHON'
import os
import sys

import torch


def square(x):
    return (x * x).sum()


for kind in sys.argv[1].split("-"):
    x = torch.ones(4, requires_grad=True)
    (torch.compile(square) if kind == "compiled" else square)(x).backward()
pid = os.fork()
if pid == 0:
    try:
        square(torch.ones(4, requires_grad=True)).backward()
    except RuntimeError as error:
        os._exit(7 if "fork-based multiprocessing" in str(error) else 1)
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(sys.argv[1], "works" if code == 0 else "fails")
assert code == (7 if sys.argv[1] == "compiled" else 0), "behaviour has changed"
PYTHON
for kind in eager compiled eager-compiled; do
    "$folder/venv/bin/python" "$folder/fork.py" "$kind" 2> /dev/null
done
