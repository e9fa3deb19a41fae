#!/usr/bin/env bash
# Build, test and measure on a machine with an NVIDIA GPU; writes benchmarks/results/<date>_gpu.json: date, commit, device,
# versions, and each command with its exit status and the lines that it printed.
#
#   benchmarks/gpu.sh
#
# What fails is listed at the end, and is then the exit status; only without its CUDA kernels nothing is measured.
# Environment: PYTHON (an interpreter that has this project installed), what libs/build.sh reads, ORIGINAL (a checkout of
# SKD's code) and IMAGES (a folder of pictures) for the comparisons that need them; docs/performance.md says what those of
# other libraries need.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
export PYTHON=${PYTHON:-python3}

capability=$("$PYTHON" -c '
import torch
if not torch.cuda.is_available():
    raise SystemExit("benchmarks/gpu.sh needs a CUDA device, and PyTorch sees none")
print("{}.{}".format(*torch.cuda.get_device_capability()))')
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$capability}

mkdir -p benchmarks/results
lines=$(mktemp)
result=benchmarks/results/$(date -u +%Y-%m-%d_%H%M)_gpu.json

failed=
measure() {
    local status=0
    printf '\n$ %s\n' "$*"
    "$@" || status=$?
    printf '\n= %s\n' "$status"
    if [ "$status" != 0 ]; then failed+="failed: $*"$'\n'; fi
}
write() {
    "$PYTHON" -c '
import json, re, sys
from datetime import datetime, timezone
runs = [
    {"command": command, "status": int(status), "lines": printed.strip().splitlines()}
    for command, printed, status in re.findall(r"^\$ (.*?)\n(.*?)\n= (\d+)$", open(sys.argv[1]).read(), re.M | re.S)
]
content = {"date": datetime.now(timezone.utc).isoformat(timespec="minutes"), "runs": runs}
json.dump(content, open(sys.argv[2], "w"), indent=1)
' "$lines" "$result"
    rm "$lines"
    echo "written: $result"
}
trap write EXIT

{
    # In a subshell, where their failure is not counted.
    (measure git rev-parse HEAD)
    (measure nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv)
    measure "$PYTHON" -m pip list --format=freeze
    measure sh libs/build.sh
    measure "$PYTHON" -m segdistill.libs
    "$PYTHON" -c '
from segdistill.libs import FALLBACK
if FALLBACK["cuda"]:
    raise SystemExit("nothing measured, for the CUDA kernels are not active: " + FALLBACK["cuda"])'
    measure "$PYTHON" -m pytest -rs tests/libs
    measure "$PYTHON" benchmarks/abn.py --device cuda
    measure env SEGDISTILL_ABN=python "$PYTHON" benchmarks/abn.py --device cuda
    measure "$PYTHON" benchmarks/memory.py --device cuda
    measure "$PYTHON" benchmarks/memory.py --device cuda --backbone resnet101_v1s
    measure "$PYTHON" benchmarks/distill_step.py --device cuda --batch-size 8
    if [ -n "${ORIGINAL:-}" ]; then measure "$PYTHON" benchmarks/original_step.py "$ORIGINAL" --device cuda --batch-size 8; fi
    measure "$PYTHON" benchmarks/peers.py --device cuda --batch-size 16 --size 512
    if [ -n "${IMAGES:-}" ]; then
        measure "$PYTHON" benchmarks/lightly.py "$IMAGES" --device cuda --batch-size 64 --steps 50 250
    fi
    measure "$PYTHON" benchmarks/methods.py --device cuda
    measure "$PYTHON" benchmarks/teacher.py --device cuda --batch-size 8 --size 512 512
    measure "$PYTHON" benchmarks/teacher_cache.py --device cuda --batch-size 8 --size 512
    measure "$PYTHON" benchmarks/predict.py --device cuda --count 200
    printf '\n%s' "$failed"
    [ -z "$failed" ]
} 2>&1 | tee "$lines"
