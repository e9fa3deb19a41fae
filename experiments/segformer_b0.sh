#!/usr/bin/env bash
# SegFormer-B0 on Cityscapes as its authors train it (Xie et al., NeurIPS 2021), alone and distilled by CWD from SegFormer-B4.
#   data_dir=DIR teacher=FILE backbone=FILE bash experiments/segformer_b0.sh
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

dataset=cityscapes
teacher_network="--network segformer --network-options backbone=mit_b4 dropout=0.1"
student_network="--network segformer --network-options backbone=mit_b0 dropout=0.1"
train_flags="--input-size 1024,1024 --random-scale --scale-range 0.5 2.0 --max-class-share 0.75 --random-mirror
    --augment photometric --batch-size 8 --num-steps 160000 --optimizer adamw --lr-g 6e-5 --lr-factor head=10
    --weight-decay 0.01 --no-decay-norms --schedule poly --power 1 --warmup 0.009375 --num-workers 16"
is_pi_use=false is_pa_use=false is_ho_use=false
methods="--cwd weight=3"
. "$here/experiments/common.sh"
