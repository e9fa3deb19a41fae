#!/usr/bin/env bash
# The ablation in one command: a teacher (trained if none is given), the student alone and the distilled student, with
# the same seeds; then all are evaluated and compared. Every setting can be overridden from the environment:
#   methods="--cwd weight=3" seeds="0 1 2" teacher=ckpt/teacher.pth dataset=cityscapes data_dir=DIR bash run_train_eval.sh
# labels=N keeps the labels of N training images. Group alone learns from these; group distilled also from the unlabelled
# images, the share=S of every batch; a third group learns from all labels, without a teacher.
# task=depth does the same for depth on the scenes, with ckpt/scenes_depth_teacher.pth.
# check=only stops after all checks, before the first step.
# The students of a seed are trained in one process, so that each image is decoded once.
# The defaults use generated street scenes, without any download, and take minutes on two CPU cores: three seeds,
# 20 labels of 400, and the teacher in ckpt/scenes_teacher.pth (teacher=train trains one).
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")  # experiments/ source this file
# Waiting OpenMP threads sleep: on a few busy cores, spinning ones slow a step down several times.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

dataset=${dataset:-scenes}
task=${task:-}                  # of the data set (its first)
if [ "$dataset" = scenes ] && [ "$task" = depth ]; then
    teacher=${teacher:-$here/ckpt/scenes_depth_teacher.pth}
    is_pi_use=${is_pi_use:-false} is_pa_use=${is_pa_use:-false}
    methods=${methods:-"--depth"}
    student_flags=${student_flags:-"--num-steps 400"}    # after 200 three seeds do not show the gain yet
fi
case $dataset in
scenes)
    data_dir=${data_dir:-data/scenes}
    teacher=${teacher:-$here/ckpt/scenes_teacher.pth}
    teacher_network=${teacher_network:-"--network espnet_c --network-options p=2 q=8"}
    student_network=${student_network:-"--network espnet_c --network-options p=2 q=3"}
    teacher_flags=${teacher_flags:-"--num-steps 800"} student_flags=${student_flags:-"--num-steps 200"}
    train_flags=${train_flags:-"--preload --num-workers 1"}
    is_ho_use=${is_ho_use:-false}    # the critic costs more than this student
    pi=${pi:-"weight=3"} pa=${pa:-"on=layer3"} ho=${ho:-"weight=0.01"}
    labels=${labels-20} share=${share-0.5} seeds=${seeds:-0 1 2} jobs=${jobs:-3}
    eval_flags=${eval_flags:-"--batch-size 8"}
    ;;
*)
    teacher_network=${teacher_network:-"--network pspnet --network-options backbone=resnet101_v1s"}
    student_network=${student_network:-"--network pspnet --network-options backbone=resnet18_v1s"}
    ;;
esac
data_dir=${data_dir:?the folder of $dataset}
is_pi_use=${is_pi_use:-true}    # pixel-wise distillation
is_pa_use=${is_pa_use:-true}    # pair-wise distillation
is_ho_use=${is_ho_use:-true}    # holistic (adversarial) distillation
methods=${methods:-}            # other methods as flags of train.py: python train.py --list-methods
pi=${pi:-} pa=${pa:-} ho=${ho:-}    # settings of the three: pi="weight=80"
seeds=${seeds:-0}
jobs=${jobs:-1}                 # seeds that are trained at once, each on its share of the cores
labels=${labels:-} share=${share:-}
teacher=${teacher:-train}       # a checkpoint, or hf://USER/REPO; train: train one
class_map=${class_map:-}        # a file, if the teacher has other classes than the data set
if [ "$teacher" = train ]; then teacher=; fi
train_flags=${train_flags:-}    # changes to the data set's recipe, for teacher and students
teacher_flags=${teacher_flags:-} student_flags=${student_flags:-} eval_flags=${eval_flags:-}
split=${split:-val}
name=${name:-ablation_$dataset${task:+_$task}}
output=${output:-snapshots/$name}
python=${python:-python}
launch=${launch:-$python}    # what starts train.py: launch="torchrun --nproc_per_node 4"

is_true() {
    case $1 in
    [Tt][Rr][Uu][Ee]) return 0 ;;
    [Ff][Aa][Ll][Ss][Ee]) return 1 ;;
    *) echo "$2: expected true or false, not '$1'" >&2; exit 2 ;;
    esac
}
terms=()
if is_true "$is_pi_use" is_pi_use; then terms+=(--pi $pi); fi
if is_true "$is_pa_use" is_pa_use; then terms+=(--pa $pa); fi
if is_true "$is_ho_use" is_ho_use; then terms+=(--ho $ho); fi
terms+=($methods)
if [ ${#terms[@]} = 0 ]; then echo "nothing to compare: set one of is_pi_use, is_pa_use, is_ho_use or methods" >&2; exit 2; fi
if [ -n "$teacher" ] && [[ $teacher != hf://* ]] && [ ! -f "$teacher" ]; then echo "no teacher $teacher" >&2; exit 2; fi
# Runs with other terms get other folders.
distilled_name=$(printf '%s' "${terms[*]}" | sed 's/^--//; s/ --/+/g; s/[^A-Za-z0-9.=+-]/_/g')

data=(--dataset "$dataset" --data-dir "$data_dir" ${task:+--task "$task"})
common=("${data[@]}" --snapshot-dir "$output" --resume $train_flags)
train() {  # the distilled student and, by --also, the others
    $launch "$here/train.py" $student_network "${common[@]}" $student_flags ${labels:+--num-labels "$labels"} \
        ${share:+--unlabelled-share "$share"} ${class_map:+--class-map "$class_map"} "${terms[@]}" "$@"
}
train_teacher() { $launch "$here/train.py" $teacher_network "${common[@]}" $teacher_flags "$@"; }
evaluate() { $python "$here/eval.py" "${data[@]}" --split "$split" $eval_flags "$@"; }

# Everything is checked before the first step of the first run.
for seed in $seeds; do
    case $seed in *[!0-9]*) echo "seeds: expected whole numbers, not '$seed'" >&2; exit 2 ;; esac
done
if [ -n "$teacher" ]; then
    train --T_ckpt_path "$teacher" --check
else  # what the terms ask of the teacher is seen from its network
    untrained=${teacher_network/--network-options/--teacher-options}
    train ${untrained/--network /--teacher-network } --check
    train_teacher --check
fi
evaluate --checkpoint "$output/teacher/best.pth" --check
if [ "${check:-}" = only ]; then exit; fi

if [ -z "$teacher" ]; then
    echo "== teacher"
    train_teacher --save-name teacher
    teacher=$output/teacher/best.pth
fi
checkpoints=() outputs=() alone=() distilled=() all_labels=()
if [ -z "$class_map" ]; then checkpoints=("$teacher") outputs=("$output/teacher/evaluation.json"); fi
train_seed() {
    train --seed "$1" --save-name "${distilled_name}_seed$1" --T_ckpt_path "$teacher" \
        --also "alone_seed$1=" ${labels:+--also "all_labels_seed$1=--num-labels none"}
}
prefix() { while IFS= read -r line; do echo "$1: $line"; done; }
trainings=() cores=$(getconf _NPROCESSORS_ONLN)
trap 'kill ${trainings[@]+"${trainings[@]}"} 2>/dev/null || true' EXIT    # if one fails, the others save their step and end
for seed in $seeds; do
    echo "== seed $seed: students distilled by ${terms[*]}, alone${labels:+, alone with all labels}"
    if [ "$jobs" = 1 ]; then
        train_seed "$seed"
    else
        OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > jobs ? cores / jobs : 1))} launch="exec $launch" \
            train_seed "$seed" > >(prefix "seed $seed") 2>&1 &
        trainings+=($!)
        if [ ${#trainings[@]} = "$jobs" ]; then
            for training in "${trainings[@]}"; do wait "$training"; done
            trainings=()
        fi
    fi
    alone+=("$output/alone_seed$seed") distilled+=("$output/${distilled_name}_seed$seed")
    all_labels+=(${labels:+"$output/all_labels_seed$seed"})
done
for training in ${trainings[@]+"${trainings[@]}"}; do wait "$training"; done
trainings=()

echo "== evaluation"
for run in "${alone[@]}" "${distilled[@]}" ${all_labels[@]+"${all_labels[@]}"}; do
    checkpoints+=("$run/best.pth") outputs+=("$run/evaluation.json")
done
if [ -n "$class_map" ]; then
    evaluate --checkpoint "$teacher" --output "$output/teacher/evaluation.json" --class-map "$class_map"
fi
evaluate --checkpoint "${checkpoints[@]}" --output "${outputs[@]}"

echo "== comparison"
groups=(--group auto "${distilled[@]}")
if [ -n "$labels" ]; then groups+=(--group "all labels" "${all_labels[@]}" --vary num_labels ${share:+unlabelled_share}); fi
$python -m segdistill.utils.report --baseline "${alone[@]}" "${groups[@]}" --teacher "$output/teacher" --output "$output"
if [ -z "$task" ] && { [ "$dataset" = scenes ] || [ "$dataset" = cityscapes ]; }; then
    checkpoint=${distilled[0]}/best.pth split=test dataset=$dataset data_dir=$data_dir output=$output/submission python=$python bash "$here/test.sh"
fi
