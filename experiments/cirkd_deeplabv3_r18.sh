#!/usr/bin/env bash
# CIRKD (Yang et al., CVPR 2022): DeepLabV3-ResNet101 teaches DeepLabV3-ResNet18 on Cityscapes.
#   data_dir=DIR teacher=FILE backbone=FILE bash experiments/cirkd_deeplabv3_r18.sh
# The original compares the 2 images on each of 8 devices. The same here, with
#   launch="torchrun --nproc_per_node 8" accumulate=1 flags="--norm sync_batch_norm"
# The default is one device with --accumulate 8, where BatchNorm has batches of 2 images, not of 16.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

dataset=cityscapes
teacher_network="--network deeplabv3 --network-options backbone=resnet101_v1s"
student_network="--network deeplabv3 --network-options backbone=resnet18_v1s"
train_flags="--input-size 512,1024 --random-scale --scale-range 0.5 2.0 --scale-step 0.1 --random-mirror --batch-size 16
    --num-steps 40000 --optimizer sgd --lr-g 0.02 --weight-decay 1e-4 --num-workers 8 --accumulate ${accumulate:-8}"
is_pi_use=false is_pa_use=false is_ho_use=false
methods="--kd weight=1 --cirkd weight=1 temperature=0.1 --cirkd-memory weight=0.1 temperature=0.1"
. "$here/experiments/common.sh"
