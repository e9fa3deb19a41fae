#!/usr/bin/env bash
# SKD (Liu et al., CVPR 2019): PSPNet-ResNet101 teaches PSPNet-ResNet18 on Cityscapes, 40,000 steps of 8 crops 512x512.
#   data_dir=DIR teacher=ckpt/CS_scenes_38413_0.7832174615268139.pth backbone=ckpt/resnet18-imagenet.pth bash experiments/skd_cityscapes.sh
set -euo pipefail
cd "$(dirname "$0")/.."

export data_dir=${data_dir:?folder of Cityscapes}
export teacher=${teacher:?the released teacher, see docs/checkpoints.md}
export dataset=cityscapes seeds=${seeds:-0}
export student_network="--network pspnet --network-options backbone=resnet18"
export student_flags="--student-pretrain-model-imgnet ${backbone:?resnet18-imagenet.pth, see docs/checkpoints.md}"
# Crop, scale, mirror, batch, steps and optimizer are the recipe of cityscapes, which is SKD's.
export train_flags=${train_flags:-"--num-workers 8"}
# SKD sums the pixel-wise term over the batch, here it is a mean: its weight of 10 at batch 8 is 80.
export pi="weight=80" pa="weight=0.5 pool_scale=0.5" ho="weight=0.1 kind=wgan-gp lambda_gp=10 lr=4e-4 weight_decay=5e-4"
export name=${name:-skd_cityscapes}
bash run_train_eval.sh
