#!/usr/bin/env bash
# A checkpoint to a Cityscapes submission, $output/cityscapes.zip: one label-id PNG for each image of the test split.
#   checkpoint=snapshots/RUN/best.pth data_dir=DIR bash test.sh
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # started by another shell
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")

checkpoint=${checkpoint:?set checkpoint to the weights to test}
dataset=${dataset:-cityscapes}
data_dir=${data_dir:?set data_dir to the folder of $dataset}
split=${split:-test}
output=${output:-submission}
save=${save:-"labels colours overlays"}

${python:-python} "$here/test.py" --dataset "$dataset" --data-dir "$data_dir" --split "$split" --checkpoint "$checkpoint" \
    --output "$output" --save $save --submission "$output/cityscapes.zip"
