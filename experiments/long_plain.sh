#!/usr/bin/env bash
# Plain distillation with a long schedule (Ali et al., The Surprising Effectiveness of Canonical Knowledge Distillation for
# Semantic Segmentation, arXiv 2604.25530, 2026): PSPNet-ResNet101 teaches PSPNet-ResNet18 on Cityscapes by its logits, or
# by a feature; the student alone has the same hours. The paper reports 79.0 by features, of a teacher of 79.8.
#   data_dir=DIR teacher=FILE backbone=FILE hours=24 bash experiments/long_plain.sh
# Known of the paper is its abstract: optimizer, rate and crops are those of dist_pspnet_r18.sh, the weights CIRKD's.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

dataset=cityscapes hours=${hours:-24}
if [ -z "${SMOKE:-}" ]; then teacher=${teacher:?a checkpoint, or hf://USER/REPO}; fi
teacher_network="--network pspnet --network-options backbone=resnet101_v1s"
student_network="--network pspnet --network-options backbone=resnet18_v1s"
train_flags="--input-size 512,1024 --random-scale --scale-range 0.5 2.0 --scale-step 0.1 --random-mirror --batch-size 16
    --optimizer sgd --lr-g 0.02 --min-lr 1e-4 --weight-decay 5e-4 --num-workers 8"
methods=${methods:-"logits: --kd weight=1
    features: --fitnet weight=10"}
. "$here/experiments/common.sh"
