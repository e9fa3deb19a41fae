#!/usr/bin/env bash
# Cityscapes, a pair of the seeds: each of its methods beside the student alone with the same hours, three seeds.
#   data_dir=DIR teacher=FILE backbone=FILE pair=skd hours=24 bash experiments/cityscapes_hours.sh
# pair=skd: PSPNet-ResNet101 teaches PSPNet-ResNet18, with the methods and settings of SKD, IFVD and CWD; pair=cirkd:
# DeepLabV3-ResNet101 teaches DeepLabV3-ResNet18, with those of CIRKD and DIST; pair=dist: the same teacher, PSPNet-ResNet18.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

dataset=cityscapes hours=${hours:-24} pair=${pair:-skd} seeds=${seeds:-0 1 2} name=cityscapes_hours_${pair:-skd}
if [ -z "${SMOKE:-}" ]; then teacher=${teacher:?a checkpoint, or hf://USER/REPO}; fi
case $pair in
skd)
    teacher_network="--network pspnet --network-options backbone=resnet101_v1s"
    student_network="--network pspnet --network-options backbone=resnet18_v1s"
    train_flags="--input-size 512,512 --random-scale --scale-range 0.7 2.1 --scale-step 0.1 --random-mirror --batch-size 8
        --optimizer sgd --lr-g 1e-2 --weight-decay 5e-4 --num-workers 8"
    skd="--pi weight=80 --pa weight=0.5 pool_scale=0.5"
    methods=${methods:-"pi: --pi weight=80
        pi+pa: $skd
        pi+pa+ho: $skd --ho weight=0.1 kind=wgan-gp lambda_gp=10 lr=4e-4 optimizer=sgd weight_decay=5e-4
        ifvd: --ifvd weight=200 --kd weight=0.526
        cwd: --cwd weight=3 temperature=4
        fitnet: --fitnet weight=10"}
    ;;
cirkd | dist)
    teacher_network="--network deeplabv3 --network-options backbone=resnet101_v1s"
    student_network="--network deeplabv3 --network-options backbone=resnet18_v1s"
    if [ "$pair" = dist ]; then student_network="--network pspnet --network-options variant=cirkd backbone=resnet18_v1s"; fi
    train_flags="--input-size 512,1024 --random-scale --scale-range 0.5 2.0 --scale-step 0.1 --random-mirror --batch-size 16
        --optimizer sgd --lr-g 0.02 --weight-decay 5e-4 --num-workers 8"
    methods=${methods:-"kd: --kd weight=1
        dist: --dist weight=1 --dist on=aux_logits weight=0.4
        cirkd: --kd weight=1 --cirkd weight=1 temperature=0.1 --cirkd-memory weight=0.1 temperature=0.1
        cwd: --cwd weight=3 temperature=4
        fitnet: --fitnet weight=10"}
    ;;
*) echo "pair: expected skd, cirkd or dist, not '$pair'" >&2; exit 2 ;;
esac
. "$here/experiments/common.sh"
