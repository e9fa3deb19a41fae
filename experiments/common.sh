# The last line of every recipe: run_train_eval.sh with the recipe's variables, or compare.sh if hours is one of them.
# From the environment, for every recipe:
#   data_dir          folder of the data set
#   backbone          ImageNet weights of the student's backbone
#   teacher           a checkpoint; without it teacher_backbone: ImageNet weights, from which a teacher is trained by this recipe
#   flags             further flags for all runs: flags="--num-workers 16 --precision bf16"
#   seeds, output ... as run_train_eval.sh takes them
# SMOKE=1 runs the recipe's losses, weights, optimizer and rates for a few steps on small crops of generated scenes, with
# a small teacher trained for it; smoke=FOLDER keeps scenes and teachers for the next recipe. With check=only there is no
# training step.
python=${python:-python}
name=${name:-$(basename "$0" .sh)}
seeds=${seeds:-0} teacher_flags=${teacher_flags:-} student_flags=${student_flags:-}

if [ -n "${SMOKE:-}" ]; then
    # It replaces the data set, not the recipe's settings.
    dataset=scenes labels= share= is_ho_use=${is_ho_use:-true}
    smoke=${smoke:-$(mktemp -d)} seeds=0
    data_dir=$smoke/scenes split=val output=$smoke/$name
    $python -m segdistill.dataset.scenes "$data_dir" --num-train 8 --num-val 4 --num-test 2 --size 64 128
    flags="--num-workers 0 --preload"
    teacher_network=${teacher_network//resnet101/resnet18}
    teacher_network=${teacher_network//mit_b4/mit_b0}
    teacher=$smoke/teacher$(printf %s "$teacher_network" | tr -c 'a-z0-9' _).pth
    if [ "${check:-}" = only ] && [ -z "${hours:-}" ]; then
        teacher=train
    elif [ ! -f "$teacher" ]; then
        $python "$here/train.py" $teacher_network --data-dir "$data_dir" --input-size 32,64 --batch-size 4 --num-steps 30 \
            --random-scale false $flags --snapshot-dir "$output" --save-name teacher --resume
        cp "$output/teacher/best.pth" "$teacher.$$"
        mv "$teacher.$$" "$teacher"
    fi
    student_flags="--input-size 64,64 --batch-size 2 --accumulate 1"
    if [ -n "${hours:-}" ]; then hours=0.0004 cost_steps=3; else student_flags+=" --num-steps 3"; fi
else
    if [[ $student_network = *backbone=* ]]; then
        : "${backbone:?ImageNet weights of the student: see docs/checkpoints.md}"
        student_flags="--student-pretrain-model-imgnet $backbone $student_flags"
    fi
    if [ -z "${teacher:-}" ] && [[ $teacher_network = *backbone=* ]]; then
        : "${teacher_backbone:?set teacher to a checkpoint, or teacher_backbone to ImageNet weights to train one from}"
        teacher_flags="--student-pretrain-model-imgnet $teacher_backbone $teacher_flags"
    fi
fi
train_flags="$train_flags ${flags:-}"
if [ -n "${hours:-}" ]; then
    student=$student_network flags="$train_flags $student_flags" output=${output:-snapshots/$name}
    . "$here/experiments/compare.sh"
else
    . "$here/run_train_eval.sh"
fi
