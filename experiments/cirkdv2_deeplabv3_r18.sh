#!/usr/bin/env bash
# CIRKDv2 (Yang et al.): DeepLabV3-ResNet101 teaches DeepLabV3-ResNet18 on Cityscapes, with the network of its code.
#   data_dir=DIR teacher=FILE backbone=FILE bash experiments/cirkdv2_deeplabv3_r18.sh
# The original compares images within a device, of which it has 8 with one image each. Here all 8 are on one.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

dataset=cityscapes
teacher_network="--network deeplabv3 --network-options backbone=resnet101_v1s width=512"
student_network="--network deeplabv3 --network-options backbone=resnet18_v1s width=512"
train_flags="--input-size 512,1024 --random-scale --scale-range 0.5 2.0 --scale-step 0.1 --random-mirror --batch-size 8
    --num-steps 80000 --optimizer sgd --lr-g 0.01 --weight-decay 1e-4 --num-workers 8"
is_pi_use=false is_pa_use=false is_ho_use=false
methods="--kd weight=1 --cirkd weight=1 temperature=0.1 --cirkd-memory weight=1 pixel=0.1 region=0.1 temperature=0.1
    --cirkd-channel batch=1 memory=0.1 mse=100 queue=10000 contrast=2048 --fitnet graph=true weight=1"
. "$here/experiments/common.sh"
