"""Time of scoring and of sliding windows, as ratios within one run.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --checkpoint FILE --image FILE    # a real prediction, too

Scoring: logits of 1/8 of 1024x2048 to a confusion matrix, against the originals' way: bilinear upsampling to a map of
floats, its argmax over the classes as the last axis, and a loop over all pairs of classes. Every matrix must be equal.
CPU time of one thread, which other work on the machine does not add to.

Sliding: tiles in batches against one at a time, on --device.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.dataset import Cityscapes
from segdistill.dataset.files import read_image
from segdistill.dataset.ids import id_table
from segdistill.dataset.scenes.street import render_scene
from segdistill.network import build_network, load_network
from segdistill.utils.metrics import ConfusionMatrix
from segdistill.utils.predict import class_ids, sliding, whole

SIZE = (1024, 2048)


def score_as_the_originals(logits: Tensor, label: np.ndarray) -> np.ndarray:
    num_classes = logits.shape[1]
    full = F.interpolate(logits, size=label.shape, mode="bilinear", align_corners=True)[0].numpy().transpose(1, 2, 0)
    prediction = np.argmax(full, axis=2).astype(np.uint8)
    labelled = label != 255
    pairs = label[labelled].astype(np.int64) * num_classes + prediction[labelled]
    counts = np.bincount(pairs.astype(np.int32))
    matrix = np.zeros((num_classes, num_classes))
    for truth in range(num_classes):
        for guess in range(num_classes):
            index = truth * num_classes + guess
            if index < len(counts):
                matrix[truth, guess] = counts[index]
    return matrix


def score(logits: Tensor, label: Tensor) -> np.ndarray:
    confusion = ConfusionMatrix(logits.shape[1])
    confusion.update(class_ids(logits, label.shape), label[None])
    return confusion.matrix[:-1, :-1].numpy()


def scene() -> tuple[Tensor, Tensor]:
    """Logits like a network's, confident inside objects and uncertain at borders, and the label of the scene."""
    _, raw, _ = render_scene(0, 0, SIZE)
    label = torch.from_numpy(id_table(Cityscapes.ID_TO_TRAIN_ID)[raw].astype(np.uint8))
    one_hot = F.one_hot(label.clamp(max=19).long(), 20).permute(2, 0, 1)[None, :19].float()
    logits = 8 * F.avg_pool2d(one_hot, 24, stride=8, padding=8)
    return logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)), label


def milliseconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return 1000 * (clock() - start)


def compare(name: str, before: Callable, after: Callable, repeats: int, clock: Callable[[], float]) -> None:
    """Time both alternately, so that other load on the machine affects both; the first round is warm-up."""
    pairs = [(milliseconds(before, clock), milliseconds(after, clock)) for _ in range(repeats + 1)][1:]
    slow, fast = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    print(f"{name:58} {slow:9.1f} ms {fast:9.1f} ms {ratio:6.1f} x")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, metavar="FILE")
    parser.add_argument("--image", type=Path, metavar="FILE")
    parser.add_argument("--threads", type=int, default=1, help="of the sliding windows")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu", help="of the sliding windows")
    parser.add_argument("--tile", type=int, nargs=2, default=(128, 128))
    parser.add_argument(
        "--size", type=int, nargs=2, default=(512, 1024), help="of the images that the tiles slide over"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)

    logits, label = scene()
    predictions = {"a scene": logits, "noise, the worst case": torch.randn(1, 19, 128, 256)}
    if options.checkpoint:
        network, report = load_network(options.checkpoint)
        image = report.normalization(read_image(options.image)[None])
        # In the memory format of the originals' networks.
        predictions[options.checkpoint.name] = whole(network).coarse(image).contiguous()
    print(f"scoring at {SIZE[0]}x{SIZE[1]}, CPU time: the originals' way, ours, ratio")
    for name, logits in predictions.items():
        if not np.array_equal(score_as_the_originals(logits, label.numpy()), score(logits, label)):
            raise SystemExit(f"{name}: the two matrices differ")
        compare(
            f"{name}, {logits.shape[1]} classes",
            lambda logits=logits: score_as_the_originals(logits, label.numpy()),
            lambda logits=logits: score(logits, label),
            options.repeats,
            time.process_time,
        )

    torch.set_num_threads(options.threads)
    images = torch.randn(1, 3, *options.size)
    print(f"sliding, tiles of {options.tile} over {options.size} on {options.device}: one at a time, batches, ratio")
    predictor = whole(build_network("espnet_c", 19).eval().to(options.device))
    one = sliding(predictor, tuple(options.tile), batch_size=1)
    for batch_size in (4, 16):
        many = sliding(predictor, tuple(options.tile), batch_size=batch_size)
        torch.testing.assert_close(many(images), one(images), rtol=1e-3, atol=1e-3)
        compare(
            f"espnet_c, {batch_size} tiles together",
            lambda: one(images).sum().item(),
            lambda many=many: many(images).sum().item(),
            options.repeats,
            time.perf_counter,
        )


if __name__ == "__main__":
    main()
