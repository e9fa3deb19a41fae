"""Time and memory of distilling features by lightly-train and by ours, as whole programs that load their images.

    pip install lightly-train==0.18.0 && python benchmarks/lightly.py IMAGES

A ViT-S/14 of random weights teaches a ResNet18 its last features on crops of 224x224, without labels (lightly-train's
``distillationv2``, our ``--fitnet``). Both train for two lengths, in turn; a step is the difference of the two over the
steps between them, so that neither program's start counts. IMAGES: a folder of pictures, at least one batch.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from segdistill.network import build_network

TEACHER = "timm:vit_small_patch14_dinov2"
THEIRS = """
import sys
import lightly_train

images, output, steps, batch_size, accelerator, precision = sys.argv[1:]
lightly_train.pretrain(
    data=images, out=output, model="torchvision/resnet18", method="distillationv2",
    method_args={"teacher": "dinov2/vits14-notpretrained"}, transform_args={"image_size": (224, 224)},
    batch_size=int(batch_size), num_workers=1, trainer_args={"max_steps": int(steps)},
    devices=1, accelerator=accelerator, precision=precision,
)
"""


def theirs(precision: str, options: argparse.Namespace, place: Path, steps: int) -> list[str]:
    named = {"float32": "32-true", "bf16": "bf16-mixed"}[precision]
    return ["-c", THEIRS, options.images, str(place), str(steps), str(options.batch_size), options.device, named]


def ours(precision: str, options: argparse.Namespace, place: Path, steps: int) -> list[str]:
    train = Path(__file__).parents[1] / "train.py"
    teacher = ["--teacher-network", TEACHER, "--T_ckpt_path", str(options.teacher), "--fitnet", "on=layer4:context"]
    data = ["--dataset", "images", "--data-dir", options.images, "--input-size", "224,224", "--num-workers", "1"]
    size = ["--batch-size", str(options.batch_size), "--num-steps", str(steps), "--device", options.device]
    student = ["--network", "timm:resnet18", "--task-weight", "0", "--precision", precision]
    return [str(train), *student, *teacher, *data, *size, "--snapshot-dir", str(place)]


PROGRAMS = {"lightly-train": (theirs, "float32"), "segdistill": (ours, "float32")}
PROGRAMS |= {"lightly-train bf16": (theirs, "bf16"), "segdistill bf16": (ours, "bf16")}


def measure(words: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in GiB of a Python program."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{words[:2]} failed: {said[-2000:]}")
    return time.perf_counter() - start, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", metavar="IMAGES")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, nargs=2, default=(4, 24), help="the two lengths")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    seconds, peaks = {name: [] for name in options.programs}, dict.fromkeys(options.programs, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        options.teacher = Path(folder) / "teacher.pth"
        torch.save(build_network(TEACHER, 2).state_dict(), options.teacher)
        for repeat in range(options.repeats):
            for name in options.programs:
                make, precision = PROGRAMS[name]
                took = []
                for steps in options.steps:
                    place = Path(folder) / f"{name}_{repeat}_{steps}"
                    span, peak = measure(make(precision, options, place, steps))
                    took.append(span)
                    peaks[name] = max(peaks[name], peak)
                seconds[name].append((took[1] - took[0]) / (options.steps[1] - options.steps[0]))
                print(f"{name}: {seconds[name][-1]:.3f} s a step", file=sys.stderr)
    print("                    median s       min       max  ratio  images/s  peak GiB")
    first = statistics.median(seconds[options.programs[0]])
    for name, spans in seconds.items():
        median = statistics.median(spans)
        print(
            f"{name:18}  {median:8.3f}  {min(spans):8.3f}  {max(spans):8.3f}  {median / first:5.2f}"
            f"  {options.batch_size / median:8.2f}  {peaks[name]:8.2f}"
        )


if __name__ == "__main__":
    main()
