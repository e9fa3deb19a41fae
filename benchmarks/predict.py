"""Time of predicting files with test.py, as a ratio to one thing after another, within one run.

    python benchmarks/predict.py
    python benchmarks/predict.py --checkpoint FILE --save overlays --count 200
    python benchmarks/predict.py --video

Generated street scenes of 1024x2048 (or a video of them) are predicted by ``test.main`` and by a plain loop: decode,
network, argmax, drawing, Pillow's PNG with its own settings (or the video's encoder). Both write under --folder, in
turns; the pictures must be equal.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from segdistill import test
from segdistill.dataset import Cityscapes
from segdistill.dataset.files import read_image
from segdistill.dataset.normalization import IMAGENET
from segdistill.dataset.scenes.street import render_scene
from segdistill.dataset.video import frame_rate, read_frames
from segdistill.libs.files import replacing
from segdistill.network import build_network
from segdistill.network.weights.checkpoint import atomic_save, export_weights
from segdistill.utils.checkpoint import LoadedPredictor, load_predictor
from segdistill.utils.video import VideoWriter


def one_after_another(source: Path, output: Path, loaded: LoadedPredictor, kind: str) -> None:
    for file in sorted(source.iterdir()):
        image = read_image(file)
        for place, picture in test.pictures_of(image, {"student": loaded.predict(image)}, Cityscapes, [kind]):
            with replacing(output / place / f"{file.stem}.png") as target:
                Image.fromarray(picture).save(target, format="PNG")


def frame_after_frame(source: Path, output: Path, loaded: LoadedPredictor, kind: str) -> None:
    with ExitStack() as stack:
        writer = stack.enter_context(VideoWriter(output / kind / f"{source.stem}.mp4", frame_rate(source)))
        for image in read_frames(source):
            for _, picture in test.pictures_of(image, {"student": loaded.predict(image)}, Cityscapes, [kind]):
                writer.add(picture)


def make_sources(folder: Path, count: int, size: tuple[int, int], video: bool) -> Path:
    """A folder of JPEG and PNG files by turns, or a video."""
    scenes = (render_scene(0, index % 8, size)[0] for index in range(count))
    if video:
        with VideoWriter(folder / "scenes.mp4", 17) as writer:
            for scene in scenes:
                writer.add(scene)
        return folder / "scenes.mp4"
    (folder / "scenes").mkdir()
    for index, scene in enumerate(scenes):
        Image.fromarray(scene).save(folder / "scenes" / f"{index:04}.{('png', 'jpg')[index % 2]}")
    return folder / "scenes"


def require_equal(one: Path, other: Path, video: bool) -> None:
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    if files != sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file()):
        raise SystemExit("not the same files")
    for file in files:
        pairs = zip(read_frames(one / file), read_frames(other / file), strict=True) if video else None
        pairs = pairs or [[np.asarray(Image.open(folder / file)) for folder in (one, other)]]
        if not all(np.array_equal(*pair) for pair in pairs):
            raise SystemExit(f"{file} differs")


def timed(way: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall, and those of all threads on processors, which other work on the machine does not add to."""
    began = time.perf_counter(), time.process_time()
    way()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="of Cityscapes (an untrained ESPNet-C)")
    parser.add_argument("--count", type=int, default=24, help="pictures or frames")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048))
    parser.add_argument("--save", choices=("labels", "colours", "overlays"), help="(labels; overlays of a video)")
    parser.add_argument("--video", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of PyTorch (one a core)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, help="for temporary files")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    kind = options.save or ("overlays" if options.video else "labels")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        folder = Path(folder)
        if not options.checkpoint:
            options.checkpoint = folder / "student.pth"
            atomic_save(export_weights(build_network("espnet_c", 19), IMAGENET), options.checkpoint)
        source = make_sources(folder, options.count, tuple(options.size), options.video)
        plain = frame_after_frame if options.video else one_after_another
        flags = ["--dataset", "cityscapes", "--checkpoint", str(options.checkpoint), "--images", str(source)]
        flags += ["--output", str(folder / "overlapped"), "--save", kind, "--device", options.device]
        ways = {
            "one after another": lambda: plain(
                source, folder / "plain", load_predictor(options.checkpoint, Cityscapes, device=options.device), kind
            ),
            "test.py": lambda: test.main(flags),
        }
        times = [[timed(way) for way in ways.values()] for _ in range(options.repeats)]
        require_equal(folder / "plain", folder / "overlapped", options.video)
    threads = f"{torch.get_num_threads()} threads of PyTorch on {options.device}, OpenCV {cv2.__version__}"
    print(f"{options.count} {'frames' if options.video else 'pictures'}, {kind}, {threads}")
    for name, own in zip(ways, zip(*times, strict=True), strict=True):
        wall, cpu = map(statistics.median, zip(*own, strict=True))
        print(f"{name:18}{wall:8.2f} s {cpu:8.2f} s of CPU time")
    wall, cpu = (statistics.median(other[clock] / one[clock] for one, other in times) for clock in range(2))
    print(f"ratio {wall:.2f}, of CPU time {cpu:.2f}")


if __name__ == "__main__":
    main()
