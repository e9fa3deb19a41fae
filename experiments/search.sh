#!/usr/bin/env bash
# Which method, weight, layer, temperature? Students by many settings, `beside` of them at a time under one forward pass
# of the teacher, ranked by their validation. After a kill, the same command continues; several processes, on several
# machines that share `output`, work on one search if each is started by the same command.
#   teacher=FILE bash experiments/search.sh
#   space="--pi weight=1..10:log temperature=1,2,4 | --cwd on=logits,context weight=1,3,10" sampler=tpe trials=12 dataset=camvid data_dir=DIR student="--network espnet_c" flags="--num-steps 4000 --val-every 1000" teacher=FILE bash experiments/search.sh
# A comma separates values, | alternatives; LOW..HIGH is a range, LOW..HIGH:log one that is even in its logarithm. sampler=grid tries
# every setting; sampler=tpe lets Optuna draw trials=N. From the second group on, a student below the median at a validation
# is stopped. task, labels, unlabelled, share, cache, views: as in compare.sh. Needs pip install segdistill[search].
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

task=${task:-}                  # of the data set (its first)
if [ "$task" = depth ]; then space=${space:-"--depth weight=0.3,1,3,10"}; fi
space=${space:-"--pi weight=0.3,1,3,10 temperature=1,2,4"}
sampler=${sampler:-grid} trials=${trials:-} beside=${beside:-4} seed=${seed:-0}
teacher=${teacher:?a checkpoint, or hf://USER/REPO}
dataset=${dataset:-scenes}
if [ "$dataset" = scenes ]; then
    data_dir=${data_dir:-data/scenes} labels=${labels-20} share=${share-0.5}
    flags=${flags:-"--num-steps 200 --val-every 50 --preload --num-workers 1"}
fi
data_dir=${data_dir:?the folder of $dataset}
student=${student:-"--network espnet_c --network-options p=2 q=3"}
flags=${flags:-}                # of all runs; pruning needs --val-every below --num-steps
teacher_flags=${teacher_flags:-}  # of those with a teacher: teacher_flags="--teacher-stride 4 --teacher-precision bf16"
labels=${labels:-} unlabelled=${unlabelled:-} share=${share:-} cache=${cache:-} views=${views:-}
output=${output:-snapshots/search_$dataset${task:+_$task}}
python=${python:-python}
launch=${launch:-$python}

common=($student --dataset "$dataset" --data-dir "$data_dir" ${task:+--task "$task"} --seed "$seed" $flags
    ${labels:+--num-labels "$labels"} ${views:+--views "$views"})
distilled=(--T_ckpt_path "$teacher" $teacher_flags ${cache:+--teacher-cache "$cache"}
    ${unlabelled:+--unlabelled-list "$unlabelled"} ${share:+--unlabelled-share "$share"})
settings=()
for name in task teacher dataset data_dir student flags teacher_flags labels unlabelled share cache views; do
    if [ -n "${!name}" ]; then settings+=("$name=${!name}"); fi
done
$python -m segdistill.utils.search --space "$space" --sampler "$sampler" ${trials:+--trials "$trials"} --beside "$beside" \
    --output "$output" --train "$launch $(printf %q "$here/train.py")" --teaching="$(printf '%q ' "${distilled[@]}")" \
    --confirm "${settings[@]}" -- "${common[@]}"
