#!/usr/bin/env bash
# CWD (Shu et al., ICCV 2021), with the arguments of its exp_cwd.sh: norm divergence weight temperature kd adv feat version.
#   data_dir=DIR teacher=FILE backbone=FILE bash experiments/cwd_cityscapes.sh channel kl 3 4 False False False v1
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

norm=${1:-channel} divergence=${2:-kl} weight=${3:-3} temperature=${4:-4} kd=${5:-False} adv=${6:-False} feat=${7:-False}
version=${8:-v1}

dataset=cityscapes name=cwd_cityscapes_${kd}_${adv}_${feat}_${norm}_${divergence}_${weight}_${temperature}_$version
teacher_network="--network pspnet --network-options backbone=resnet101_v1s"
student_network="--network pspnet --network-options backbone=resnet18_v1s"
train_flags="--input-size 512,512 --random-scale false --random-mirror false --batch-size 8 --num-steps 40000
    --optimizer sgd --lr-g 1e-2 --weight-decay 5e-4 --num-workers 8"
is_pi_use=false is_pa_use=false is_ho_use=$adv
methods="--cwd norm=$norm divergence=$divergence weight=$weight temperature=$temperature"
case $feat in
[Tt]rue) methods+=" on=context adapter=conv_bn_relu adapter_lr=1e-2" ;;
[Ff]alse) methods+=" on=logits" ;;
*) echo "feat: expected True or False, not '$feat'" >&2 && exit 2 ;;
esac
case $kd in
[Tt]rue) methods+=" --kd weight=0.526" ;;  # 10 there, divided by the 19 classes as well
[Ff]alse) ;;
*) echo "kd: expected True or False, not '$kd'" >&2 && exit 2 ;;
esac
# The critic's loss has a factor of 0.1 there and of 0.001 here, which Adam does not feel.
ho="weight=0.001 kind=wgan-gp lambda_gp=10 lr=4e-4 optimizer=adam"
. "$here/experiments/common.sh"
