#!/usr/bin/env bash
# The first torch.optim.SGD of a process imports the compiler: 893 modules, sympy and FSDP among them, over a second of CPU.
#
# Expected: an optimizer of one parameter is made in microseconds, and nothing that compiles is loaded by a program that
#   compiles nothing. `import torch` leaves torch._dynamo out on purpose, which is imported when it is first used.
# Seen: Optimizer.__init__ imports torch._dynamo. It doubles the modules that are loaded and costs about as much CPU as
#   `import torch` itself. Every process that trains pays it, a forked worker too, unless its parent had imported it.
# Versions: torch 2.14.1, numpy 2.4.6.
# Output (seconds vary, the compiler has to cost more than a fifth of torch):
#   import torch: 1.68 s, torch._dynamo loaded: False
#   torch.optim.SGD: 1.29 s, 893 modules more, torch._dynamo loaded: True, sympy loaded: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6
"$folder/venv/bin/python" -c "import torch, torch._dynamo"    # compiles the modules' bytecode
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import time

start = time.process_time()
import torch

of_torch, before = time.process_time() - start, set(sys.modules)
print(f"import torch: {of_torch:.2f} s, torch._dynamo loaded: {'torch._dynamo' in before}")
parameter = torch.nn.Parameter(torch.zeros(1))
start = time.process_time()
torch.optim.SGD([parameter], lr=0.1)
of_optimizer, more = time.process_time() - start, set(sys.modules) - before
loaded = {name: name in sys.modules for name in ("torch._dynamo", "sympy")}
words = ", ".join(f"{name} loaded: {there}" for name, there in loaded.items())
print(f"torch.optim.SGD: {of_optimizer:.2f} s, {len(more)} modules more, {words}")
assert "torch._dynamo" not in before and all(loaded.values()) and len(more) > 500, "behaviour has changed"
assert of_optimizer > of_torch / 5, "behaviour has changed"
PYTHON
