#!/usr/bin/env bash
# Any methods against the student alone, over seeds, with one teacher, student and data set. The students of a seed
# are trained in one process: the same batches, one forward pass of the teacher. After a kill, the same command
# continues. SKD's own ablation is the default:
#   teacher=FILE bash experiments/compare.sh
#   methods="cwd: --cwd weight=3
#       dist: --dist" seeds="0 1 2" dataset=camvid data_dir=DIR student="--network espnet_c" split=test teacher=FILE bash experiments/compare.sh
# cache=DIR views=K caches the teacher's outputs (see --teacher-cache). share=S is the unlabelled share of every batch: images
# beyond labels=N, or those of unlabelled=FILE. Several processes may train seeds in parallel (seeds=0, seeds=1 ...);
# afterwards the command with all seeds only compares.
# hours=H compares at equal time: cost_steps=20 steps of every method, one after the other, measure what a step costs,
# the teacher's pass included; then each method trains for the steps that fit into H hours, in a process of its own.
# task=depth learns depth where the data set has it, by --depth, and with --pa, unless methods are named.
# check=only stops after all checks, before the first step.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

task=${task:-}                  # of the data set (its first)
if [ "$task" = depth ]; then
    methods=${methods:-"depth: --depth
depth+pa: --depth --pa on=layer3"}
fi
methods=${methods:-"pi: --pi weight=1
pi+pa: --pi weight=1 --pa on=layer3
pi+pa+ho: --pi weight=1 --pa on=layer3 --ho weight=0.01"}
seeds=${seeds:-0 1 2}
teacher=${teacher:?a checkpoint, or hf://USER/REPO}
dataset=${dataset:-scenes} data_dir=${data_dir:-data/scenes} split=${split:-val}
student=${student:-"--network espnet_c --network-options p=2 q=3"}
flags=${flags:-}                # of all runs: flags="--num-steps 4000 --preload"
teacher_flags=${teacher_flags:-}  # of those with a teacher: teacher_flags="--teacher-stride 4 --teacher-precision bf16"
labels=${labels:-} unlabelled=${unlabelled:-} share=${share:-} cache=${cache:-} views=${views:-}
hours=${hours:-} cost_steps=${cost_steps:-20}
output=${output:-snapshots/compare_$dataset${task:+_$task}}
python=${python:-python}
launch=${launch:-$python}

data=(--dataset "$dataset" --data-dir "$data_dir" ${task:+--task "$task"})
common=($student "${data[@]}" --snapshot-dir "$output" --resume $flags
    ${labels:+--num-labels "$labels"} ${views:+--views "$views"})
distilled=(--T_ckpt_path "$teacher" $teacher_flags ${cache:+--teacher-cache "$cache"}
    ${unlabelled:+--unlabelled-list "$unlabelled"} ${share:+--unlabelled-share "$share"})
if [ -n "$unlabelled" ]; then share=${share:-0.5}; fi  # train.py's default

names=() terms=()
while IFS= read -r line; do
    [ -n "${line// /}" ] || continue
    case $line in *:*) ;; *) echo "methods: expected lines such as 'cwd: --cwd weight=3', not '$line'" >&2; exit 2 ;; esac
    names+=("$(echo ${line%%:*})") terms+=("$(echo ${line#*:})")
done <<< "$methods"
names+=(alone) terms+=("")

if [ -n "$hours" ]; then
    if ! [[ $hours =~ ^([0-9]+\.?|[0-9]*\.[0-9]+)$ ]]; then echo "hours: expected a number, not '$hours'" >&2; exit 2; fi
    if [[ $flags = *--num-steps* ]]; then
        echo "hours and --num-steps both say how long to train: give one" >&2; exit 2
    fi
    if [ -n "$cache" ] || [[ $flags$teacher_flags = *--teacher-cache* ]]; then
        echo "hours: what a cached teacher costs depends on what the cache holds: leave the cache out" >&2; exit 2
    fi
    # The weights of the last step count: by more validations a cheaper method would have more to choose from.
    common=(--val-every 1000000000 "${common[@]}")
fi
steps=()  # of each method within the hours, once they are known

train() {  # seed, more flags
    local seed=$1 also=(); shift
    if [ -n "$hours" ]; then
        for i in "${!names[@]}"; do
            train_one "$i" --seed "$seed" --save-name "${names[i]}_seed$seed" --num-steps "${steps[i]:-$cost_steps}" "$@"
        done
        return
    fi
    for i in "${!names[@]}"; do
        if [ "$i" != 0 ]; then also+=(--also "${names[i]}_seed$seed=${terms[i]}"); fi
    done
    $launch "$here/train.py" "${common[@]}" --seed "$seed" --save-name "${names[0]}_seed$seed" "${distilled[@]}" ${terms[0]} \
        "${also[@]}" "$@"
}
train_one() {  # number of the method, more flags
    local method=${terms[$1]} teaching=(); shift
    if [ -n "$method" ]; then teaching=("${distilled[@]}"); fi
    $launch "$here/train.py" "${common[@]}" ${teaching[@]+"${teaching[@]}"} $method "$@"
}
measure() {  # number of the method, more flags
    train_one "$1" --snapshot-dir "$output/cost" --save-name "${names[$1]}" --num-steps "$cost_steps" "${@:2}"
}

of_teacher() {  # what eval.py needs of teacher_flags, a word a line
    local word kept=
    for word in $teacher_flags; do
        case $word in
        --class-map) kept=$word ;;
        --teacher-network) kept=--network ;;
        --teacher-options) kept=--network-options ;;
        --*) kept=; continue ;;
        *) if [ -n "$kept" ]; then echo "$word"; fi; continue ;;
        esac
        echo "$kept"
    done
}
evaluate() { $python "$here/eval.py" "${data[@]}" --split "$split" "$@"; }

if [ -n "$hours" ]; then
    for i in "${!names[@]}"; do measure "$i" --check; done
else
    for seed in $seeds; do train "$seed" --check; done
fi
if [ "${check:-}" = only ]; then exit; fi
if [ -n "$hours" ]; then
    echo "== cost of a step"
    costs=()
    for i in "${!names[@]}"; do
        measure "$i"
        costs+=("$output/cost/${names[i]}")
    done
    allotted=$($python -m segdistill.utils.budget "$hours" "${costs[@]}")
    echo "$allotted"
    steps=($(cut -d " " -f 1 <<< "$allotted"))
fi
checkpoints=() outputs=()
for seed in $seeds; do
    echo "== seed $seed"
    train "$seed"
    for name in "${names[@]}"; do
        run=$output/${name}_seed$seed
        if [ "$run/evaluation.json" -nt "$run/best.pth" ]; then continue; fi
        checkpoints+=("$run/best.pth") outputs+=("$run/evaluation.json")
    done
done
if [ ${#checkpoints[@]} != 0 ]; then
    evaluate --checkpoint "${checkpoints[@]}" --output "${outputs[@]}"
fi
shown_teacher=$output/teacher
if ! [ "$shown_teacher/evaluation.json" -nt "$teacher" ]; then
    evaluate --checkpoint "$teacher" --output "$shown_teacher/evaluation.json" $(of_teacher) ||
        { echo "the teacher is shown without a score" >&2; shown_teacher=$teacher; }
fi

echo "== comparison"
folders() { for seed in $seeds; do echo "$output/$1_seed$seed"; done; }
groups=() varied=(${share:+unlabelled_share ${unlabelled:+unlabelled_list}})
for name in "${names[@]}"; do
    if [ "$name" != alone ]; then groups+=(--group "$name" $(folders "$name")); fi
done
if [ "$(printf '%s\n' "${steps[@]:-}" | sort -u | wc -l)" -gt 1 ]; then varied+=(num_steps); fi
$python -m segdistill.utils.report --baseline $(folders alone) "${groups[@]}" --teacher "$shown_teacher" ${varied[0]:+--vary "${varied[@]}"} --output "$output"
