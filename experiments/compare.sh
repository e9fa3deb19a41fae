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
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

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
output=${output:-snapshots/compare_$dataset}
python=${python:-python}
launch=${launch:-$python}

common=($student --dataset "$dataset" --data-dir "$data_dir" --snapshot-dir "$output" --resume $flags
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

train() {  # seed, more flags
    local seed=$1 also=(); shift
    for i in "${!names[@]}"; do
        if [ "$i" != 0 ]; then also+=(--also "${names[i]}_seed$seed=${terms[i]}"); fi
    done
    $launch "$here/train.py" "${common[@]}" --seed "$seed" --save-name "${names[0]}_seed$seed" "${distilled[@]}" ${terms[0]} \
        "${also[@]}" --also "alone_seed$seed=" "$@"
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
evaluate() { $python "$here/eval.py" --dataset "$dataset" --data-dir "$data_dir" --split "$split" "$@"; }

for seed in $seeds; do train "$seed" --check; done
checkpoints=() outputs=()
for seed in $seeds; do
    echo "== seed $seed"
    train "$seed"
    for name in alone "${names[@]}"; do
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
groups=()
for name in "${names[@]}"; do groups+=(--group "$name" $(folders "$name")); done
$python -m segdistill.utils.report --baseline $(folders alone) "${groups[@]}" --teacher "$shown_teacher" ${share:+--vary unlabelled_share ${unlabelled:+unlabelled_list}} --output "$output"
