#!/usr/bin/env bash
# CIRKDv2 (Yang et al.): SegFormer-B4 teaches SegFormer-B0 on Cityscapes.
#   data_dir=DIR teacher=FILE backbone=FILE bash experiments/cirkdv2_segformer_b0.sh
# The original compares images within a device, of which it has 8 with one image each. Here all 8 are on one.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

dataset=cityscapes
teacher_network="--network segformer --network-options backbone=mit_b4"
student_network="--network segformer --network-options backbone=mit_b0"
train_flags="--input-size 1024,1024 --random-scale --scale-range 0.5 2.0 --scale-step 0.1 --random-mirror --batch-size 8
    --num-steps 160000 --optimizer adamw --lr-g 2e-4 --weight-decay 1e-4 --num-workers 16"
is_pi_use=false is_pa_use=false is_ho_use=false
methods="--kd weight=1 --cirkd weight=1 temperature=0.1 --cirkd-memory weight=1 pixel=0.1 region=0.1 temperature=0.1 pixel_queue=2000
    --cirkd-channel batch=1 memory=0.1 mse=100 queue=10000 contrast=2048 --fitnet weight=1"
. "$here/experiments/common.sh"
