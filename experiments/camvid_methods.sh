#!/usr/bin/env bash
# CamVid, every image labelled: does a teacher help a student from scratch? SKD's released ESPNet (65.13 test mIoU)
# teaches ESPNet-C (p 2, q 3; 0.19 M parameters) by six methods. The schedule is for a GPU; num_steps=1000 batch_size=4
# fits two CPU cores, see docs/results.md.
#   data_dir=DIR teacher=DIR/SD+KD+CITY_65.1.pth bash experiments/camvid_methods.sh
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

export methods=${methods:-"pi: --pi weight=3
    pi+pa: --pi weight=3 --pa weight=0.5 on=layer3
    cwd: --cwd weight=3
    dist: --dist
    dkd: --dkd
    pi+at: --pi weight=3 --at on=layer3 weight=100"}
export dataset=camvid split=test data_dir=${data_dir:?folder of CamVid} output=${output:-snapshots/camvid_methods}
num_steps=${num_steps:-20000} batch_size=${batch_size:-8}
export flags="--num-steps $num_steps --batch-size $batch_size --scale-range 0.75 1.5 --val-every $num_steps --preload ${flags:-}"
export teacher_flags=${teacher_flags:-"--teacher-stride 4"}
exec bash "$here/experiments/compare.sh"
