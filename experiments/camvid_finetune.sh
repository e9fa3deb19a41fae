#!/usr/bin/env bash
# CamVid, fine-tuning: SKD's released ESPNet-C (p 2, q 8; 56.75 test mIoU) is trained for a short time, alone and
# distilled from SKD's released ESPNet (65.13), on the 468 images of train and val, as SKD's students were.
#   data_dir=DIR student_file=DIR/BASE56.7.pth teacher=DIR/SD+KD+CITY_65.1.pth bash experiments/camvid_finetune.sh
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

export dataset=camvid split=test data_dir=${data_dir:?folder of CamVid} output=${output:-snapshots/camvid_finetune}
num_steps=${num_steps:-200}
mkdir -p "$output"
for part in train val; do
    (cd "$data_dir/$part" && printf '%s\n' *.png) | sed "s#.*#$part/& ${part}annot/&#"
done > "$output/trainval.txt"
export methods=${methods:-"pi: --pi weight=0.5
    dkd: --dkd weight=0.5 alpha=0"}
export student=${student:-"--network espnet_c --network-options p=2 q=8"}
export flags="--S_ckpt_path ${student_file:?the student to start from} --data-list $output/trainval.txt --num-steps $num_steps --input-size 360,480 --batch-size 4 --scale-range 1 1.5
    --lr-g 3e-4 --ema 0.99 --val-every $num_steps --preload ${flags:-}"
export teacher_flags=${teacher_flags:-"--teacher-stride 4 --teacher-precision bf16"}
exec bash "$here/experiments/compare.sh"
