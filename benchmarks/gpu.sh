#!/usr/bin/env bash
# Build, test and measure on a machine with an NVIDIA GPU; writes benchmarks/results/<date>_gpu.txt.
#
#   benchmarks/gpu.sh
#
# What fails is listed at the end, and is then the exit status; only without its CUDA kernels nothing is measured.
# Environment: PYTHON (an interpreter that has this project installed), and what libs/build.sh reads.
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
result=benchmarks/results/$(date -u +%Y-%m-%d_%H%M)_gpu.txt
trap 'echo "written: $result"' EXIT

failed=
measure() {
    printf '\n$ %s\n' "$*"
    "$@" || failed+="failed: $*"$'\n'
}

{
    date -u
    git rev-parse HEAD || true
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || true
    measure sh libs/build.sh
    measure "$PYTHON" -m segdistill.libs
    "$PYTHON" -c '
from segdistill.libs import FALLBACK
if FALLBACK["cuda"]:
    raise SystemExit("nothing measured, for the CUDA kernels are not active: " + FALLBACK["cuda"])'
    measure "$PYTHON" -m pytest -rs tests/libs
    measure "$PYTHON" benchmarks/abn.py --device cuda
    SEGDISTILL_ABN=python measure "$PYTHON" benchmarks/abn.py --device cuda
    measure "$PYTHON" benchmarks/memory.py --device cuda
    measure "$PYTHON" benchmarks/memory.py --device cuda --backbone resnet101_v1s
    measure "$PYTHON" benchmarks/distill_step.py --device cuda --batch-size 8
    measure "$PYTHON" benchmarks/methods.py --device cuda
    measure "$PYTHON" benchmarks/teacher.py --device cuda --batch-size 8 --size 512 512
    measure "$PYTHON" benchmarks/teacher_cache.py --device cuda --batch-size 8 --size 512
    printf '\n%s' "$failed"
    [ -z "$failed" ]
} 2>&1 | tee "$result"
