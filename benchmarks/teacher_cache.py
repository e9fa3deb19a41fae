"""Time of a distilled step with cached teacher outputs, against a step of the student alone.

    python benchmarks/teacher_cache.py

PSPNet-ResNet18 with pi + pa, its teacher PSPNet-ResNet101, 4x3x256x256, float32, channels_last. Three steps are timed
in turn in one run: alone, distilled from a warm cache, distilled with the teacher; the figures are ratios of medians.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from distill_step import timed

from segdistill.dataset.normalization import CAFFE
from segdistill.network import build_network
from segdistill.utils.batch import Batch
from segdistill.utils.learner import Learner, Objective
from segdistill.utils.losses import PairWise, PixelWise, TaskLoss
from segdistill.utils.teacher import Inference, Teacher
from segdistill.utils.teacher_cache import TeacherCache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    layout = {"device": device, "memory_format": torch.channels_last}

    torch.manual_seed(0)
    teacher = Teacher(build_network("pspnet", 19, backbone="resnet101_v1s"), CAFFE, CAFFE, Inference(**layout))
    side = (arguments.batch_size, 3, arguments.size, arguments.size)
    images = torch.randn(side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 19, (side[0], *side[2:]), device=device)
    keys = torch.tensor([(0, index) for index in range(side[0])])
    batch = Batch(images, labels, keys, torch.tensor(float(labels.numel())), 0.0)
    learners = {}
    for name, terms in {"alone": {}, "cached": {"pi": PixelWise(), "pa": PairWise()}}.items():
        student = build_network("pspnet", 19, backbone="resnet18_v1s").to(**layout)
        objective = Objective(student, TaskLoss(0.4), terms).to(device)
        learners[name] = Learner(objective, torch.optim.SGD(objective.parameters(), 1e-6))
    learners["asked"] = learners["cached"]

    with tempfile.TemporaryDirectory() as folder:
        cache = TeacherCache(Path(folder), teacher, {}, side[0], 1)
        ask = {"alone": lambda: None, "cached": lambda: cache(batch, learners["cached"].wanted)}
        ask["asked"] = lambda: teacher(batch, learners["asked"].wanted)

        def step(name: str) -> None:
            learners[name].accumulate(batch, ask[name]())
            learners[name].update()

        times = {name: [] for name in ask}
        for repeat in range(arguments.repeats + 1):
            for name, seconds in times.items():
                spent = timed(lambda name=name: step(name), device)
                if repeat:  # the first of each warms up, and fills the cache
                    seconds.append(spent)
    medians = {name: statistics.median(values) for name, values in times.items()}
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"torch {torch.__version__}, {machine}, {arguments.repeats} repeats")
    for name, median in medians.items():
        print(f"{name:6}  median {median:7.3f} s  {median / medians['alone']:.3f} x alone")


if __name__ == "__main__":
    main()
