#!/usr/bin/env bash
# CamVid, no teacher: how far does DeepLabV3+ with MobileNetV2 from ImageNet come alone? Gains of distillation are to be
# measured from here. Beside the seeds, seed 0 is trained without each lever: one rate for all parts, no warm-up, no
# photometric distortion.
#   data_dir=DIR backbone=FILE bash experiments/camvid_mobilenetv2.sh
# backbone: ImageNet weights, as python -m segdistill.network fetch mobilenet_v2 gets them. jobs=N runs train at once.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

data=(--dataset camvid --data-dir "${data_dir:?folder of CamVid}")
output=${output:-snapshots/camvid_mobilenetv2} split=${split:-test} seeds=${seeds:-0 1 2}
without=${without-rates warmup colours}
num_steps=${num_steps:-800} jobs=${jobs:-2} python=${python:-python}
rates=(--lr-factor head=10) warmup=(--warmup 0.05) colours=(--augment photometric)
common=(--network deeplabv3plus --network-options backbone=mobilenetv2 output_stride=16
    --student-pretrain-model-imgnet "${backbone:?ImageNet weights of MobileNetV2: see docs/checkpoints.md}"
    "${data[@]}" --input-size 240,320 --scale-range 0.75 1.5 --batch-size 4 --num-steps "$num_steps" --val-every "$num_steps"
    --optimizer adamw --lr-g 3e-4 --weight-decay 0.01 --no-decay-norms --precision bf16 --preload --num-workers 1 --snapshot-dir "$output" --resume)

train() {  # name, flags
    $python "$here/train.py" "${common[@]}" ${flags:-} --save-name "$@"
}
names=() settings=()
for seed in $seeds; do
    names+=("all_seed$seed") settings+=("--seed $seed ${rates[*]} ${warmup[*]} ${colours[*]}")
done
for lever in $without; do
    case $lever in
    rates) kept="${warmup[*]} ${colours[*]}" ;;
    warmup) kept="${rates[*]} ${colours[*]}" ;;
    colours) kept="${rates[*]} ${warmup[*]}" ;;
    *) echo "without: expected rates, warmup or colours, not '$lever'" >&2; exit 2 ;;
    esac
    names+=("without_${lever}_seed0") settings+=("--seed 0 $kept")
done
for i in "${!names[@]}"; do train "${names[i]}" ${settings[i]} --check; done
if [ "${check:-}" = only ]; then exit; fi

cores=$(getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > jobs ? cores / jobs : 1))}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT    # if one fails, the others save their step and end
for i in "${!names[@]}"; do
    if [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; then wait -n; fi
    train "${names[i]}" ${settings[i]} 2>&1 | sed -u "s/^/${names[i]}: /" &
done
for process in $(jobs -p); do wait "$process"; done
runs=("${names[@]/#/$output/}")
$python "$here/eval.py" "${data[@]}" --split "$split" --batch-size 4 --checkpoint "${runs[@]/%//best.pth}" --output "${runs[@]/%//evaluation.json}"
$python -m segdistill.utils.report "${runs[@]}"
