#!/bin/sh
# Build the compiled kernels of in-place ABN: C++ always, CUDA where nvcc is found. There is no second step.
#
#   sh libs/build.sh
#   sh libs/build.sh cpu    # C++ alone
#
# Environment: PYTHON (an interpreter that has torch), CXX, CXXFLAGS, CUDA_HOME, NVCC,
# TORCH_CUDA_ARCH_LIST ("7.5;8.0;8.6;8.9;9.0+PTX").
set -eu
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-$(command -v python3 || echo python)}
CXX=${CXX:-c++}
TORCH=$("$PYTHON" -c 'import importlib.util; print(importlib.util.find_spec("torch").submodule_search_locations[0])')
# Nothing newer than torch 2.11's stable ABI: one binary for every torch from that on.
OPTIONS="-std=c++17 -O3 -shared -DTORCH_TARGET_VERSION=0x020b000000000000 -isystem $TORCH/include -L$TORCH/lib -ltorch_cpu"

trap 'rm -f libs/part_*.so' EXIT
trap 'exit 1' HUP INT TERM

# finish DEVICE: give libs/part_DEVICE.so its name, which appears only now that the file is complete.
finish() {
    # Not as a package: during an installation there is none yet.
    RESULT=$("$PYTHON" -c "import sys; sys.path.insert(0, 'libs'); from sources import library_path; print(library_path('$1'))")
    find libs -name "_C_$1_*.so" -exec rm {} +
    mv "libs/part_$1.so" "$RESULT"
    echo "built libs/$(basename "$RESULT")"
}

case $(uname -m) in x86_64 | amd64) VECTORS="-mavx2 -mfma -mf16c" ;; *) VECTORS= ;; esac
# shellcheck disable=SC2086
"$CXX" libs/src/abn_cpu.cpp -fPIC -Wall -fopenmp-simd -fno-math-errno -fno-trapping-math $VECTORS ${CXXFLAGS:-} \
    $OPTIONS -o libs/part_cpu.so
finish cpu
echo "no build.py follows: this is the only step"
if [ "${1:-}" = cpu ]; then exit 0; fi

if [ -z "${NVCC:-}" ]; then
    if [ -x "${CUDA_HOME:-}/bin/nvcc" ]; then NVCC=$CUDA_HOME/bin/nvcc; else NVCC=$(command -v nvcc || true); fi
fi
if [ -z "$NVCC" ]; then
    echo "no nvcc: CUDA kernels not built"
    exit 0
fi
# A link on PATH hides the toolkit that nvcc looks for beside itself.
NVCC=$(readlink -f "$NVCC")
ARCHITECTURES=
for ARCH in $(echo "${TORCH_CUDA_ARCH_LIST:-7.5;8.0;8.6;8.9;9.0+PTX}" | tr ';,' '  '); do
    NUMBER=$(echo "${ARCH%+PTX}" | tr -d .)
    ARCHITECTURES="$ARCHITECTURES -gencode arch=compute_$NUMBER,code=sm_$NUMBER"
    case $ARCH in *+PTX) ARCHITECTURES="$ARCHITECTURES -gencode arch=compute_$NUMBER,code=compute_$NUMBER" ;; esac
done
# A PyTorch without CUDA has no libtorch_cuda; the kernels compile all the same, which checks the sources.
if [ -e "$TORCH/lib/libtorch_cuda.so" ]; then OPTIONS="$OPTIONS -ltorch_cuda"; fi
# shellcheck disable=SC2086
"$NVCC" libs/src/abn_cuda.cu -Xcompiler -fPIC -ccbin "$CXX" -cudart shared --threads 0 -DUSE_CUDA $ARCHITECTURES \
    $OPTIONS -o libs/part_cuda.so
finish cuda
