#!/usr/bin/env bash
# SKD (Liu et al., CVPR 2019): PSPNet-ResNet101 teaches PSPNet-ResNet18 on Cityscapes, 40,000 steps of 8 crops 512x512.
#   data_dir=DIR teacher=ckpt/CS_scenes_38413_0.7832174615268139.pth backbone=ckpt/resnet18-imagenet.pth bash experiments/skd_cityscapes.sh
set -euo pipefail
cd "$(dirname "$0")/.."

data_dir=${data_dir:?folder of Cityscapes} teacher=${teacher:?the released teacher, see docs/checkpoints.md} \
backbone=${backbone:?resnet18-imagenet.pth, see docs/checkpoints.md}

# SKD sums the pixel-wise term over the batch, here it is a mean: its weight of 10 at batch 8 is 80.
dataset=cityscapes data_dir=$data_dir teacher=$teacher crop=512,512 batch_size=8 num_steps=40000 \
student_network="--network pspnet --backbone resnet18 --student-pretrain-model-imgnet $backbone" \
train_flags="--random-scale --random-mirror --lr-g 1e-2 --weight-decay 5e-4 --num-workers 8" \
pi_flags="--lambda-pi 80" pa_flags="--lambda-pa 0.5 --pool-scale 0.5" \
ho_flags="--lambda-d 0.1 --lambda-gp 10 --lr-d 4e-4 --adv-loss-type wgan-gp" \
name=skd_cityscapes bash run_train_eval.sh
