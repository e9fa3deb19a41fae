#!/usr/bin/env bash
# The ablation in one command: a teacher (trained here if none is given), the student alone and the student distilled,
# with the same seeds; then both evaluated and compared. Every setting can be overridden from the environment:
#   is_ho_use=false seeds="0 1 2" teacher=ckpt/teacher.pth dataset=cityscapes data_dir=DIR bash run_train_eval.sh
# The defaults run on generated street scenes, without any download, in about ten minutes on two CPU cores.
set -euo pipefail
cd "$(dirname "$0")"
# Waiting OpenMP threads sleep: on a few busy cores, spinning ones slow a step down several times.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

is_pi_use=${is_pi_use:-true}    # pixel-wise distillation
is_pa_use=${is_pa_use:-true}    # pair-wise distillation
is_ho_use=${is_ho_use:-true}    # holistic (adversarial) distillation
seeds=${seeds:-0}

dataset=${dataset:-scenes}
data_dir=${data_dir:-data/scenes}
split=${split:-val}
teacher=${teacher:-}            # a checkpoint; empty: train one
teacher_network=${teacher_network:-"--network espnet_c --p 2 --q 8"}
student_network=${student_network:-"--network espnet_c --p 2 --q 3"}

crop=${crop:-128,256}
batch_size=${batch_size:-8}
teacher_steps=${teacher_steps:-1000}
num_steps=${num_steps:-250}
train_flags=${train_flags:-"--random-scale --scale-range 0.75 1.5 --random-mirror --optimizer adam --lr-g 3e-3 --weight-decay 1e-4 --preload --num-workers 1"}
pi_flags=${pi_flags:-"--lambda-pi 1"}
pa_flags=${pa_flags:-"--lambda-pa 0.5 --pa-feature layer3"}
ho_flags=${ho_flags:-"--lambda-d 0.01"}
name=${name:-ablation_$dataset}
output=${output:-snapshots/$name}

python=${python:-python}
data=(--dataset "$dataset" --data-dir "$data_dir")
common=("${data[@]}" --input-size "$crop" --batch-size "$batch_size" --snapshot-dir "$output" --resume)

evaluate() {  # run folder
    $python eval.py "${data[@]}" --split "$split" --checkpoint "$output/$1/best.pth" --output "$output/$1/evaluation.json"
}

terms=()
if [ "$is_pi_use" = true ]; then terms+=(--pi $pi_flags); fi
if [ "$is_pa_use" = true ]; then terms+=(--pa $pa_flags); fi
if [ "$is_ho_use" = true ]; then terms+=(--ho $ho_flags); fi
if [ ${#terms[@]} = 0 ]; then echo "nothing to compare: set one of is_pi_use, is_pa_use, is_ho_use to true" >&2; exit 2; fi

if [ -z "$teacher" ]; then
    echo "== teacher"
    $python train.py $teacher_network "${common[@]}" $train_flags --num-steps "$teacher_steps" --save-name teacher
    evaluate teacher
    teacher=$output/teacher/best.pth
fi

alone=() distilled=()
for seed in $seeds; do
    echo "== student alone, seed $seed"
    $python train.py $student_network "${common[@]}" $train_flags --num-steps "$num_steps" --seed "$seed" --save-name "alone_seed$seed"
    evaluate "alone_seed$seed"
    echo "== student distilled, seed $seed"
    $python train.py $student_network "${common[@]}" $train_flags --num-steps "$num_steps" --seed "$seed" --save-name "distilled_seed$seed" \
        --T_ckpt_path "$teacher" "${terms[@]}"
    evaluate "distilled_seed$seed"
    alone+=("$output/alone_seed$seed") distilled+=("$output/distilled_seed$seed")
done

echo "== comparison"
$python -m segdistill.utils.report --baseline "${alone[@]}" --group auto "${distilled[@]}" --teacher "$teacher" --output "$output"
if [ "$dataset" = scenes ] || [ "$dataset" = cityscapes ]; then
    checkpoint=${distilled[0]}/best.pth dataset=$dataset data_dir=$data_dir output=$output/submission python=$python bash test.sh
fi
