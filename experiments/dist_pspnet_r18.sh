#!/usr/bin/env bash
# DIST (Huang et al., NeurIPS 2022): DeepLabV3-ResNet101 teaches PSPNet-ResNet18 on Cityscapes.
#   data_dir=DIR teacher=FILE backbone=FILE bash experiments/dist_pspnet_r18.sh
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

dataset=cityscapes
teacher_network="--network deeplabv3 --network-options backbone=resnet101_v1s"
student_network="--network pspnet --network-options variant=cirkd backbone=resnet18_v1s"
train_flags="--input-size 512,1024 --random-scale --scale-range 0.5 2.0 --scale-step 0.1 --random-mirror --batch-size 16
    --num-steps 40000 --optimizer sgd --lr-g 0.02 --min-lr 1e-4 --weight-decay 5e-4 --num-workers 8"
is_pi_use=false is_pa_use=false is_ho_use=false
methods="--dist weight=1 --dist on=aux_logits weight=0.4"
. "$here/experiments/common.sh"
