#!/usr/bin/env bash
# AKD (Mansourian et al.; pi 100, pa 1): DeepLabV3+-ResNet101 teaches DeepLabV3+-ResNet18 on the 1,464 images of VOC 2012.
#   data_dir=DIR teacher=FILE backbone=FILE bash experiments/voc_deeplabv3plus.sh
# With the argument mobilenetv2 the student has this backbone.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

dataset=voc2012 name=voc_deeplabv3plus${1:+_$1}
teacher_network="--network deeplabv3plus --network-options backbone=resnet101"
student_network="--network deeplabv3plus --network-options backbone=${1:-resnet18}"
# 50 epochs of 244 batches
train_flags="--input-size 513,513 --short-side 256 1026 --random-mirror --augment blur=0.5 --batch-size 6 --num-steps 12200
    --optimizer sgd --lr-g 7e-3 --lr-factor head=10 --weight-decay 5e-4 --num-workers 8
    --task-weight 0.16666666666666666"  # it divides cross-entropy by the batch of 6 once more
is_pi_use=false is_ho_use=false
methods="--at weight=100 over=column on=context.pre"  # its "pixel-wise" term
pa="weight=1 pool_scale=0.5 on=aspp.pre"
. "$here/experiments/common.sh"
