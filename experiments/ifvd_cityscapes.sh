#!/usr/bin/env bash
# IFVD (Wang et al., ECCV 2020): PSPNet-ResNet101 teaches PSPNet-ResNet18 on Cityscapes, without scaling and mirroring.
#   data_dir=DIR teacher=FILE backbone=FILE bash experiments/ifvd_cityscapes.sh
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

dataset=cityscapes
teacher_network="--network pspnet --network-options backbone=resnet101_v1s"
student_network="--network pspnet --network-options backbone=resnet18_v1s"
train_flags="--input-size 512,512 --random-scale false --random-mirror false --batch-size 8 --num-steps 40000
    --optimizer sgd --lr-g 1e-2 --weight-decay 5e-4 --num-workers 8"
is_pi_use=false is_pa_use=false
methods="--ifvd weight=200 --kd weight=0.526"  # kd 10 there, divided by the 19 classes as well
# The critic's loss has a factor of 0.1 there and of 0.001 here, which Adam does not feel.
ho="weight=0.001 kind=wgan-gp lambda_gp=10 lr=4e-4 optimizer=adam"
. "$here/experiments/common.sh"
