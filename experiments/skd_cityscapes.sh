#!/usr/bin/env bash
# SKD (Liu et al., CVPR 2019): PSPNet-ResNet101 teaches PSPNet-ResNet18 on Cityscapes.
#   data_dir=DIR teacher=FILE backbone=FILE bash experiments/skd_cityscapes.sh
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

dataset=cityscapes
teacher_network="--network pspnet --network-options backbone=resnet101_v1s"
student_network="--network pspnet --network-options backbone=resnet18_v1s"
train_flags="--input-size 512,512 --random-scale --scale-range 0.7 2.1 --scale-step 0.1 --random-mirror --batch-size 8
    --num-steps 40000 --optimizer sgd --lr-g 1e-2 --weight-decay 5e-4 --num-workers 8"
pi="weight=80"  # 10 there, summed over the batch of 8
pa="weight=0.5 pool_scale=0.5"  # as there, where no gradient flows through the norm
ho="weight=0.1 kind=wgan-gp lambda_gp=10 lr=4e-4 optimizer=sgd weight_decay=5e-4"
. "$here/experiments/common.sh"
