"""The commands of the original code bases' READMEs and scripts, as they stand there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import eval as evaluation
import test as prediction
from segdistill.utils.options import parse_options
from segdistill.utils.originals import TABLES, markdown, translate

ROOT = Path(__file__).parents[1]
PARSERS = {"train.py": parse_options, "eval.py": evaluation.parse_options, "test.py": prediction.parse_options}
SHELLS = [shell for shell in ("dash", "busybox sh", "ksh", "zsh", "sh") if shutil.which(shell.split()[0])]
SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.sh"), *ROOT.glob("experiments/*.sh"), *ROOT.glob("benchmarks/*.sh"))
    if path.stem != "common"
)

LAUNCH = "CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 python -m torch.distributed.launch --nproc_per_node=8"
PAIR = "--teacher-model deeplabv3 --student-model deeplabv3 --teacher-backbone resnet101 --student-backbone resnet18"
FILES = (
    "--data DIR/cityscapes/ --save-dir DIR/ckpt --log-dir DIR/log --teacher-pretrained DIR/deeplabv3_resnet101.pth "
    "--student-pretrained-base DIR/resnet18-imagenet.pth"
)
SEGFORMER = (
    "--teacher-model segformer --student-model segformer --teacher-backbone MiT_B4 --student-backbone MiT_B0 "
    "--dataset citys --data DIR/cityscapes/ --batch-size 8 --workers 16 --crop-size 1024 1024 --optimizer-type adamw "
    "--lr 0.0002 --max-iterations 160000 --save-dir DIR/ckpt --log-dir DIR/log --gpu-id 0,1,2,3,4,5,6,7 "
    "--teacher-pretrained DIR/segformer_MiT_B4_citys.pth --student-pretrained DIR/mit_b0.pth"
)
V2 = "--batch-size 8 --lr 0.01 --max-iterations 80000 --lambda-minibatch-channel 1. --lambda-memory-channel 0.1"
EVAL = "--model deeplabv3 --backbone resnet101 --data DIR/cityscapes/ --save-dir DIR/log"
# A command, and what its answer must hold.
COMMANDS = [
    # SKD
    (
        "CUDA_VISIBLE_DEVICES='3' python3 train_and_eval.py --gpu 0 --parallel False --random-mirror --random-scale "
        "--weight-decay 5e-4 --data-dir DIR/cityscapes --batch-size 8 --num-steps 40000 --is-student-load-imgnet True "
        "--student-pretrain-model-imgnet DIR/resnet18-imagenet.pth --pi True --pa True --ho True --lambda-pa 0.5 "
        "--pool-scale 0.5 --lambda-pi 10.0 --lambda-d 0.1",
        "--pi weight=80 --pa weight=0.5 pool_scale=0.5 --ho weight=0.1 kind=wgan-gp",
    ),
    ("python train.py --pi True --lambda-pi 10", "--pi weight=80"),
    ("python train.py --pi True --lambda-pi 10 --batch-size 4", "--pi weight=40"),
    ("python train.py --pi True --pa False --ho False", "--pi weight=80"),
    (
        "CUDA_VISIBLE_DEVICES='3' python3 test.py --resume-from DIR/CS_scenes_39326_0.75.pth --data-dir DIR/cityscapes",
        "python test.py --dataset cityscapes --output outputs --submission outputs/cityscapes.zip --checkpoint",
    ),
    # CWD
    ("bash exp_cwd.sh channel kl 3 4 False False False v1", "--cwd on=logits weight=3 temperature=4 norm=channel"),
    ("bash exp_cwd.sh channel kl 3 4 True True False v1", "--kd weight=0.5263 --ho weight=0.001 kind=wgan-gp"),
    (
        "bash exp_cwd.sh channel kl 40 1 False False True v1",
        "--cwd on=context weight=40 temperature=1 norm=channel divergence=kl adapter=conv_bn_relu adapter_lr=0.01",
    ),
    # IFVD
    (
        "python train.py --data-dir DIR/cityscapes --save-name save --gpu 0",
        "--kd weight=0.5263 --ho weight=0.001 kind=wgan-gp lambda_gp=10 lr=4e-4 preprocess=1 optimizer=adam --ifvd",
    ),
    ("python val.py --data-dir DIR/cityscapes --restore-from DIR/x.pth --gpu 0", "python eval.py --dataset cityscapes"),
    ("python test.py --data-dir DIR/cityscapes --restore-from DIR/x.pth --gpu 0", "python test.py"),
    # CIRKD
    (
        f"{LAUNCH} train_cirkd.py {PAIR} {FILES}",
        "--kd weight=1 temperature=1 --cirkd weight=1 temperature=0.1 --cirkd-m",
    ),
    (
        f"{LAUNCH} train_kd.py {PAIR} --lambda-kd 1.0 --lambda-d 0.1 --lambda-adv 0.001 --lambda-cwd-fea 50. "
        f"--lambda-cwd-logit 3. {FILES}",
        "--ho weight=0.001 kind=hinge optimizer=adam power=0 --cwd on=context weight=50. temperature=4 --cwd weight=3.",
    ),
    (f"{LAUNCH} train_kd.py {PAIR} --lambda-kd 1. --lambda-skd 10 {FILES}", "--pa weight=10 window=2"),
    (f"{LAUNCH} train_kd.py {PAIR} --lambda-kd 1.0 --lambda-ifv 20. {FILES}", "--ifvd weight=20."),
    (f"{LAUNCH} train_kd.py {PAIR} --lambda-psd 1000. --lambda-csd 10. {FILES}", "--psd weight=1000. --csd weight=10."),
    (f"{LAUNCH} train_kd.py {PAIR} --lambda-kd 1.0 --lambda-at 10000. {FILES}", "--at weight=10000."),
    (f"{LAUNCH} train_kd.py {PAIR} --lambda-kd 1.0 --lambda-fitnet 10. {FILES}", "--fitnet weight=10."),
    (f"{LAUNCH} train_kd_segformer.py {SEGFORMER} --lambda-skd 10", "--student-pretrain-model-imgnet"),
    (
        f"{LAUNCH} --master_port 12397 train_cirkdv2.py {PAIR} {V2} --lambda-fitnet 1. --lambda-channel-kd 100. "
        f"{FILES}",
        "--cirkd-channel batch=1. memory=0.1 mse=100. queue=10000 contrast=2048 --fitnet graph=true weight=1.",
    ),
    (
        f"{LAUNCH} train_baseline.py --model deeplabv3 --backbone resnet18 --data DIR/cityscapes/ --save-dir DIR/ckpt "
        "--log-dir DIR/log --pretrained-base DIR/resnet18-imagenet.pth",
        "--network deeplabv3 --network-options backbone=resnet18_v1s",
    ),
    (
        f"python -m torch.distributed.launch --nproc_per_node=8 eval.py {EVAL} --gpu-id 0,1,2,3,4,5,6,7 "
        "--pretrained DIR/x.pth",
        "torchrun --nproc_per_node 8 eval.py --checkpoint",
    ),
    (f"eval.py {EVAL} --gpu-id 0,1 --pretrained DIR/x.pth", "torchrun --nproc_per_node 2 eval.py --checkpoint"),
    (
        f"{LAUNCH} --master_addr 127.5.0.4 eval.py --model psp_mobile --backbone mobilenetv3_small --dataset voc "
        "--data DIR/VOCAug/ --save-dir DIR/masks --save-pred --blend --pretrained DIR/x.pth",
        "python test.py --checkpoint",
    ),
    (
        f"python -m torch.distributed.launch --nproc_per_node=4 test.py {EVAL} --gpu-id 0,1,2,3 --save-pred "
        "--pretrained DIR/x.pth",
        "CUDA_VISIBLE_DEVICES=0,1,2,3 python test.py --checkpoint",
    ),
    # DIST
    (
        f"python -m torch.distributed.launch --nproc_per_node=8 train_kd.py {PAIR} --gpu-id 0,1,2,3,4,5,6,7 {FILES}",
        "--dist weight=1 --dist on=aux_logits weight=0.4",
    ),
    # AKD and AICSD
    (
        "CUDA_VISIBLE_DEVICES=0,1 python train.py --backbone resnet18 --gpu-ids 0,1 --dataset pascal --use-sbd "
        "--nesterov",
        "CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc_per_node 2 train.py --data-dir DIR --batch-size 12",
    ),
    (
        "CUDA_VISIBLE_DEVICES=0,1 python train_with_distillation.py --backbone mobilenet --gpu-ids 0,1 "
        "--dataset pascal --use-sbd --nesterov",
        "--overhaul weight=22 --overhaul on=layer3.pre weight=5.6",
    ),
    (
        "python train_kd.py --backbone resnet18 --dataset pascal --pa_lambda 1 --pi_lambda 100",
        "--at over=column on=context.pre weight=100 --pa on=aspp.pre weight=1",
    ),
    ("python train_kd.py --backbone resnet18 --dataset pascal --pa_lambda 9500", "--aicsd weight=1.5"),
    (
        "python train_kd.py --backbone resnet18 --dataset pascal --pa_lambda 9500 --pi_lambda 10 --ALW",
        "--kd grid=image weight=0.4762 decay=1 --aicsd weight=1.5 warmup=1",
    ),
    # ESPNet
    ("python main.py", "--network espnet_c --network-options p=2 q=8"),
    ("CUDA_VISIBLE_DEVICES=2 python main.py", "CUDA_VISIBLE_DEVICES=2 python train.py"),
    ("python main.py --scaleIn 8 --p 2 --q 8", "--network espnet_c --network-options p=2 q=8"),
    (
        "python main.py --scaleIn 1 --p 2 --q 8 --decoder True --pretrained ../pretrained/encoder/espnet_p_2_q_8.pth",
        "--network espnet --network-options p=2 q=8",
    ),
    ("python VisualizeResults.py --data_dir DIR --img_extn jpg", "--images DIR"),
    ("python VisualizeResults.py --modelType 2 --p 2 --q 3", "--checkpoint ../pretrained/encoder/espnet_p_2_q_3.pth"),
    ("python VisualizeResults.py --modelType 1 --p 2 --q 3", "--checkpoint ../pretrained/decoder/espnet_p_2_q_3.pth"),
]


def parses(command, folder):
    """Whether our own command parses once the files that it names exist."""
    (folder / "file.pth").touch()
    text = re.sub(r"\S+\.pth(\.tar)?\b|\bFILE\b", str(folder / "file.pth"), command)
    words = shlex.split(re.sub(r"(?<=--data-dir )\S+|(?<=--images )\S+|\bDIR\b", str(folder), text))
    at = next(i for i, word in enumerate(words) if word in PARSERS)
    PARSERS[words[at]](words[at + 1 :])


@pytest.mark.parametrize(("theirs", "part"), COMMANDS, ids=[theirs[-60:] for theirs, _ in COMMANDS])
def test_a_command_of_an_original_has_an_equivalent_here(theirs, part, tmp_path, monkeypatch):
    ours = translate(shlex.split(theirs))
    assert part in ours
    if number := re.search(r"nproc_per_node (\d+)", ours):
        monkeypatch.setenv("WORLD_SIZE", number[1])
    parses(ours, tmp_path)


TYPED_HERE = [
    (theirs, re.sub(r".*?(train|eval|test)\.py ", r"\1.py ", theirs).split())
    for theirs, _ in COMMANDS
    if re.search(r"(?<!\w)(train|eval|test)\.py ", theirs)
]


@pytest.mark.parametrize(("theirs", "words"), TYPED_HERE, ids=[theirs[-60:] for theirs, _ in TYPED_HERE])
def test_typed_here_it_is_answered_with_the_equivalent(theirs, words, capsys):
    """As an error; a --local-rank of the launcher is no matter."""
    with pytest.raises(SystemExit) as stop:
        PARSERS[words[0]]([*words[1:2], "--local-rank=1", *words[2:]])
    assert stop.value.code == 2
    bare = " ".join(words)
    assert translate(shlex.split(bare)) in capsys.readouterr().err


def test_a_renamed_script_of_theirs_is_answered_too(capsys):
    with pytest.raises(SystemExit):
        parse_options(["--backbone", "resnet18", "--dataset", "pascal", "--pa_lambda", "1", "--pi_lambda", "100"])
    assert (
        "AKD (--backbone, --dataset, --pa_lambda, --pi_lambda); here:\n    python train.py" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("--network espnet_c --lr 0.1", "    python train.py --lr-g 0.1 --network espnet_c\n"),
        (
            "--network espnet_c --num-step 3",
            "train.py: error: unrecognized arguments: --num-step 3; --num-step is --num-steps here (--help",
        ),
        (
            "--pi weight=80 --lambda-pi 10",
            "train.py: error: unrecognized arguments: --lambda-pi 10 (--help lists the opt",
        ),
        (
            "--pi --epochs 5 --teacher t.pth",
            "--epochs is --num-steps (batches, not epochs) here, --teacher is --T_ckpt_path FILE",
        ),
        ("--resume True --random-mirror maybe", "train.py: error: argument --random-mirror: "),
        ("--pi", "train.py: error: --pi needs a teacher"),
    ],
)
def test_a_mistake_in_a_command_of_ours_is_told_as_such(words, answer, capsys):
    with pytest.raises(SystemExit):
        parse_options(words.split())
    assert answer in capsys.readouterr().err


def test_a_script_of_nobody_is_refused():
    with pytest.raises(ValueError, match=r"no script of an original in 'python foo\.py'"):
        translate(["python", "foo.py"])


def test_the_documentation_shows_the_tables():
    assert markdown().strip() in (ROOT / "docs/methods.md").read_text()


def test_every_row_becomes_words_that_parse(tmp_path):
    """Also the flags that no README types."""
    for table in TABLES:
        checkpoint = "" if table.script == "train.py" else "--checkpoint x.pth"
        for row in (*table.options, *table.terms):
            given = {flag: value.replace("FILE", "x.pth") for flag, value in row.values.items()}
            words = table.ours(next(iter(table.scripts)), given)
            parses(f"{table.script} {' '.join(words)} {checkpoint}", tmp_path)


@pytest.mark.parametrize("flag", ["--local-rank=3", "--local_rank=3"])
def test_the_launchers_rank_is_no_option(flag, tiny):
    options = parse_options([flag, "--dataset", "camvid", "--data-dir", str(tiny / "camvid")])
    assert not any("local" in name for name in vars(options))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_under_any_shell_from_anywhere(script, tmp_path):
    """As under bash in its own folder: up to its first complaint, with an interpreter that does nothing."""
    (tmp_path / "python").write_text('#!/bin/sh\necho python "$@"\n')
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "link.sh").symlink_to(ROOT / script)
    environment = {"PATH": os.environ["PATH"], "python": str(tmp_path / "python"), "PYTHON": "false", "name": "run"}
    environment["jobs"] = "1"  # trainings at once print in any order

    def run(command, folder):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, re.sub(r"^\S*?: line", "line", done.stderr, flags=re.M)

    expected = run(["bash", script, "channel"], ROOT)
    for shell in SHELLS:
        assert run([*shell.split(), tmp_path / "link.sh", "channel"], tmp_path) == expected


def test_without_bash_a_script_says_so_in_one_line(tmp_path):
    shell = shutil.which("dash") or shutil.which("sh")
    done = subprocess.run(
        [shell, ROOT / "test.sh"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 127
    assert len(done.stderr.splitlines()) == 1
    assert "bash" in done.stderr


@pytest.mark.slow
def test_torch_distributed_launch_starts_eval(tiny):
    """torchrun differs in that it adds no --local-rank."""
    data = ["--dataset", "camvid", "--data-dir", str(tiny / "camvid"), "--checkpoint", "any.pth", "--check"]
    launch = [sys.executable, "-m", "torch.distributed.launch", "--nproc_per_node=1", "--master_port=29653"]
    done = subprocess.run([*launch, "eval.py", *data], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
