#!/usr/bin/env bash
# CamVid with the labels of one sequence only, 62 images at dusk: do the unlabelled images help? SKD's released
# ESPNet (65.13 test mIoU) teaches ESPNet-C (p 2, q 3; 0.19 M parameters) from scratch.
#   data_dir=DIR teacher=DIR/SD+KD+CITY_65.1.pth bash experiments/camvid_sequence.sh
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

export dataset=camvid split=test data_dir=${data_dir:?folder of CamVid} output=${output:-snapshots/camvid_sequence}
num_steps=${num_steps:-1000} sequence=${sequence:-0001TP}
mkdir -p "$output"
pairs() { (cd "$data_dir/train" && printf '%s\n' *.png) | sed 's#.*#train/& trainannot/&#'; }
pairs | grep "^train/$sequence" > "$output/labelled.txt"
pairs | grep -v "^train/$sequence" > "$output/unlabelled.txt"
export methods=${methods:-"pi: --pi weight=3"}
export unlabelled=$output/unlabelled.txt share=${share:-0.5}
export flags="--data-list $output/labelled.txt --num-steps $num_steps --scale-range 0.75 1.5 --val-every $num_steps --preload ${flags:-}"
export teacher_flags=${teacher_flags:-"--teacher-stride 4 --teacher-precision bf16"}
exec bash "$here/experiments/compare.sh"
