#!/usr/bin/env bash
# CamVid, every image labelled, a student that starts from Cityscapes: does a teacher help where the curve is flat and the
# student alone has the same hours, and what does it depend on? ESPNet-C (p 2, q 3; 0.19 M parameters) starts from ESPNet's
# release; SKD's released ESPNet (65.13 test mIoU) teaches.
#   data_dir=DIR base=DIR/encoder/espnet_p_2_q_3.pth teacher=DIR/SD+KD+CITY_65.1.pth bash experiments/camvid_transfer.sh
# parts, each a folder of output; the same command continues after a kill, and parts may run at the same time:
#   methods        five methods, equal steps
#   shorter        the best of them for the time of the student alone
#   longer         the student alone for 2.4 times the steps, and the best of the methods for the same time
#   half, quarter  of the steps, by the best of the methods
#   labels         half of the steps and, with few=N, of the labels; the other images are there without
#   teachers       half of the steps, by weaker teachers: weaker="FILE FILE"; SKD's release of 57.8, say
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

export data_dir=${data_dir:?folder of CamVid} teacher=${teacher:?a checkpoint} seeds=${seeds:-0 1 2} python=${python:-python}
export student=${student:-"--network espnet_c --network-options p=2 q=3 --S_ckpt_path ${base:?weights of the student}"}
export batch_size=${batch_size:-4} teacher_flags=${teacher_flags:-"--teacher-stride 4 --teacher-precision bf16"}
num_steps=${num_steps:-1000} output=${output:-snapshots/camvid_transfer} flags=${flags:-}
few=${few:-184}  # images with labels, half of them
parts=${parts:-methods shorter longer half quarter labels ${weaker:+teachers}}
methods=${methods:-"pi: --pi weight=3
    pi+pa: --pi weight=3 --pa weight=0.5 on=layer3
    fitnet: --fitnet on=layer3
    cwd: --cwd weight=3
    dist: --dist"}
best=${best:-"dist: --dist"}

methods_in() {  # folder, steps, variables of camvid_methods.sh
    env output="$output/$1" num_steps="$2" flags="--lr-g 1e-3 --val-every $((($2 + 4) / 5)) $flags" "${@:3}" \
        bash "$here/experiments/camvid_methods.sh"
}
train_to() {  # steps, name, seed, flags; a run of its own, scored at the end
    local run=$output/$part/$2_seed$3
    $python "$here/train.py" $student --dataset camvid --data-dir "$data_dir" --num-steps "$1" --val-every $(($1 / 5)) \
        --batch-size "$batch_size" --lr-g 1e-3 --scale-range 0.75 1.5 --preload $flags \
        --seed "$3" --snapshot-dir "$output/$part" --save-name "$2_seed$3" --resume "${@:4}"
    if ! [ "$run/evaluation.json" -nt "$run/best.pth" ]; then
        $python "$here/eval.py" --dataset camvid --data-dir "$data_dir" --split test \
            --checkpoint "$run/best.pth" --output "$run/evaluation.json"
    fi
}
# A step by the best of the methods took 1.4 times as long as one alone, the teacher's pass included.
name=${best%%:*} distilled=(--T_ckpt_path "$teacher" $teacher_flags ${best#*:}) longest=$((num_steps * 24 / 10))
for part in $parts; do
    echo "== $part"
    case $part in
    methods) methods_in methods "$num_steps" methods="$methods" ;;
    half) methods_in half $((num_steps / 2)) methods="$best" ;;
    quarter) methods_in quarter $((num_steps / 4)) methods="$best" ;;
    labels) methods_in labels $((num_steps / 2)) methods="$best" labels="$few" share=0.5 ;;
    teachers)
        for file in $weaker; do
            methods_in "$(basename "$file" .pth)" $((num_steps / 2)) methods="$best" teacher="$file"
        done
        ;;
    shorter) for seed in $seeds; do train_to $((num_steps * 10 / 14)) "$name" "$seed" "${distilled[@]}"; done ;;
    longer)
        for seed in $seeds; do
            train_to $longest alone "$seed"
            train_to $((longest * 10 / 14)) "$name" "$seed" "${distilled[@]}"
        done
        ;;
    *) echo "parts: expected methods, shorter, longer, half, quarter, labels or teachers, not '$part'" >&2; exit 2 ;;
    esac
done

folders() { for seed in $seeds; do echo "$output/$1/$2_seed$seed"; done; }
at_equal_time() {  # the part of the student alone, that of the best method
    if [[ " $parts " = *" $1 "* && " $parts " = *" $2 "* ]]; then
        $python -m segdistill.utils.report --baseline $(folders "$1" alone) --group "$name" $(folders "$2" "$name") \
            --vary num_steps val_every --output "$output/$2"
    fi
}
at_equal_time methods shorter
at_equal_time longer longer
