#!/usr/bin/env bash
# AKD (Mansourian et al.; pi 100, pa 1): DeepLabV3+-ResNet101 teaches DeepLabV3+-ResNet18 on the 1,464 images of VOC 2012.
#   data_dir=DIR teacher=FILE backbone=FILE bash experiments/voc_deeplabv3plus.sh
# Differences: one learning rate, 7e-3 (original: 7e-3 for the backbone, 7e-2 for the rest, with a loss a sixth as large);
# no blurring of half the samples; validation at the images' size (original: labels resized to a short side of 513); the
# teacher is always in eval mode. The original scales the short side to 256..1026, 0.7 to 2.8 times that of most images.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

dataset=voc2012
teacher_network="--network deeplabv3plus --network-options backbone=resnet101"
student_network="--network deeplabv3plus --network-options backbone=resnet18"
# 50 epochs of 244 batches
train_flags="--input-size 513,513 --random-scale --scale-range 0.7 2.8 --random-mirror --batch-size 6 --num-steps 12200
    --optimizer sgd --lr-g 7e-3 --weight-decay 5e-4 --num-workers 8"
is_pi_use=false is_ho_use=false
# It divides cross-entropy by the batch of 6 once more, so its weights of 100 and 1 are 6 times as great here.
methods="--at weight=600 over=column on=context.pre"  # its "pixel-wise" term
pa="weight=6 pool_scale=0.5 on=aspp.pre"
. "$here/experiments/common.sh"
