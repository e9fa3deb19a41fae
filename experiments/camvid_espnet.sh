#!/usr/bin/env bash
# CamVid on two CPU cores, within an hour: SKD's released ESPNet (65.13 test mIoU) teaches ESPNet-C (p 2, q 3; 0.19 M
# parameters) from scratch. The recipe is ours; docs/results.md has its numbers.
#   data_dir=DIR teacher=DIR/SD+KD+CITY_65.1.pth bash experiments/camvid_espnet.sh
set -euo pipefail
cd "$(dirname "$0")/.."

dataset=camvid split=test seeds=${seeds:-0 1}
teacher_network="--network espnet"
student_network="--network espnet_c --network-options p=2 q=3"
train_flags="--input-size 240,320 --random-scale --scale-range 0.5 2.0 --random-mirror --batch-size 8 --num-steps 1000
    --optimizer adam --lr-g 3e-3 --weight-decay 1e-4 --preload --num-workers 1"
is_ho_use=false
pi="weight=3"
pa="weight=0.5 on=layer3"
. experiments/common.sh
