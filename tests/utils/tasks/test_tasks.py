"""A second task is one class and one entry of TASKS: here, how bright every pixel is, scored by an error."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eval as evaluation
import train
from segdistill.dataset import DATASETS, CamVid
from segdistill.dataset.base import is_labelled
from segdistill.dataset.files import read_image
from segdistill.dataset.normalization import IMAGENET
from segdistill.network import SegmentationNetwork, build_network
from segdistill.network.base import Feature, resize
from segdistill.network.weights.checkpoint import atomic_save, export_weights
from segdistill.utils.report import compare_groups, drawings
from segdistill.utils.report.render import paired_table
from segdistill.utils.tasks import TASKS, Figure, Task

NETWORK = f"{Path(__file__)}:BrightnessNetwork"


class BrightnessNetwork(SegmentationNetwork):
    def __init__(self, num_channels: int):
        super().__init__()
        self.num_classes = 0
        self.features = {"context": Feature(4, 2), "brightness": Feature(1, 2)}
        self.body, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 1, 1)

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        context = self.body(images).relu()
        return {"context": context, "brightness": self.head(context)}


class BrightnessData(CamVid):
    """CamVid's images, labelled by their own brightness in 0..1 but for a void strip."""

    TASKS, CLASSES = ("brightness",), ()

    def read_label(self, index: int) -> Tensor:
        label = read_image(self.pairs[index].image).float().mean(0) / 255
        label[:3] = math.nan
        return label


class SquaredError(nn.Module):
    name, wanted = "squared_error", frozenset({"brightness"})

    def __init__(self, weight: float):
        super().__init__()
        self.weight = weight

    def forward(self, output, batch) -> Tensor:
        prediction = resize(output.features["brightness"], batch.labels.shape[1:])[:, 0]
        known = is_labelled(batch.labels)
        return (prediction - batch.labels)[known].square().sum() / batch.num_valid


class BrightnessScores:
    def __init__(self):
        self.count = self.total = self.squares = self.errors = 0.0

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        known = is_labelled(labels)
        predictions, labels = predictions[known].double(), labels[known].double()
        self.count += len(labels)
        self.total += labels.sum().item()
        self.squares += labels.square().sum().item()
        self.errors += (predictions - labels).square().sum().item()

    def reduce(self, device) -> None:
        pass  # these tests run in one process

    def num_labelled(self) -> int:
        return int(self.count)

    def figures(self) -> dict[str, float]:
        return {"rmse": math.sqrt(self.errors / self.count)}

    def best_constant(self) -> float:
        return math.sqrt(self.squares / self.count - (self.total / self.count) ** 2)


class Brightness(Task):
    name = feature = "brightness"
    figures = (Figure("rmse", "RMSE", unit="", greater_is_better=False),)

    def num_channels(self, dataset) -> int:
        return 1

    def loss(self, network, *, weight: float) -> nn.Module:
        return SquaredError(weight)

    def scores(self, dataset, protocol=None) -> BrightnessScores:
        return BrightnessScores()

    def read(self, maps: Tensor, size) -> Tensor:
        return resize(maps, size)[:, 0].cpu()

    def picture(self, prediction: np.ndarray, dataset) -> np.ndarray:
        grey = np.nan_to_num(255 * prediction).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)

    def encode(self, prediction: np.ndarray, dataset) -> np.ndarray:
        return (65535 * prediction.clip(0, 1)).astype(np.uint16)


def make_teacher(path: Path, exact: bool) -> Path:
    """One that says the brightness exactly, at every other pixel, or 0 everywhere."""
    network = build_network(NETWORK, 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        if exact:
            mean, std = torch.tensor(IMAGENET.mean) / 255, torch.tensor(IMAGENET.std) / 255
            network.body.weight[:, :, 1, 1] = std / 3
            network.body.bias[:] = mean.mean()
            network.head.weight[0, 0] = 1
    atomic_save(export_weights(network, IMAGENET), path)
    return path


@pytest.fixture
def brightness(monkeypatch):
    monkeypatch.setitem(TASKS, "brightness", Brightness())
    monkeypatch.setitem(DATASETS, "brightness", BrightnessData)


def arguments(tiny, tmp_path, *more):
    teacher = make_teacher(tmp_path / "teacher.pth", exact="broken" not in more)
    return [
        *("--dataset", "brightness", "--data-dir", str(tiny / "camvid"), "--input-size", "32,80", "--device", "cpu"),
        *("--network", NETWORK, "--teacher-network", NETWORK, "--T_ckpt_path", str(teacher), "--batch-size", "2"),
        *("--num-steps", "4", "--val-every", "1", "--num-workers", "0", "--lr-g", "0.5"),
        *("--snapshot-dir", str(tmp_path), "--save-name", "distilled"),
        *(word for word in more if word != "broken"),
    ]


@pytest.mark.usefixtures("brightness")
def test_a_second_task_is_trained_chosen_by_its_figure_verified_evaluated_and_compared(tiny, tmp_path):
    assert drawings.quantities_of(["val/rmse"]) == {"val/rmse": "validation RMSE"}
    assert train.main(arguments(tiny, tmp_path, "--fitnet", "--also", "alone=")) == 0
    folders = tmp_path / "alone", tmp_path / "distilled"
    data = ["--dataset", "brightness", "--data-dir", str(tiny / "camvid"), "--network", NETWORK]
    for folder in folders:
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        scores = [row["val/rmse"] for row in rows if "val/rmse" in row]
        best = torch.load(folder / "best.pth", weights_only=True)
        assert len(scores) == 4
        assert best["rmse"] == min(scores) != max(scores)
        assert all(math.isfinite(row["loss/squared_error"]) for row in rows if "loss" in row)

        checkpoint, output = folder / "best.pth", folder / "evaluation.json"
        assert evaluation.main([*data, "--checkpoint", str(checkpoint), "--output", str(output)]) == 0
        figures = json.loads(output.read_text())
        assert (figures["task"], figures["rmse"]) == ("brightness", pytest.approx(min(scores)))
        report = (folder / "report.md").read_text()
        assert f"Best validation RMSE: {min(scores):.4g}" in report
        assert re.search(rf"\*\*RMSE\*\* +\| +{min(scores):.4g} \|", report)
        assert "mIoU" not in report

    teacher = json.loads((tmp_path / "distilled" / "teacher.json").read_text())
    assert 0 < teacher["rmse"] < 0.1
    assert 0 < teacher["crops"]["rmse"] < 0.1
    comparison = compare_groups([folders[0]], [("distilled", [folders[1]])])
    assert paired_table(comparison).header[0] == "RMSE"


@pytest.mark.usefixtures("brightness")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["broken", "--fitnet"], r"scores 0\.\d+ RMSE on 2 images .* no better than a constant prediction"),
        (["--pi", "on=brightness"], "--pi needs maps of 2 channels or more, the student's brightness has 1"),
        (["--ifvd"], "--ifvd needs classes"),
        (["--fitnet", "--ohem", "min_kept=1"], "--ohem has no effect with --task brightness"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(tiny, tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        train.main(arguments(tiny, tmp_path, *words))
    assert not (tmp_path / "distilled").exists()


@pytest.mark.usefixtures("brightness")
def test_labels_of_another_task_and_networks_that_do_not_answer_are_refused(tiny):
    with pytest.raises(ValueError, match="CamVid has no labels for the task 'brightness'; known: segmentation"):
        CamVid(tiny / "camvid", "val", task="brightness")
    data = ["--dataset", "brightness", "--data-dir", str(tiny / "camvid")]
    with pytest.raises(ValueError, match="has no feature brightness"):
        evaluation.main([*data, "--checkpoint", str(tiny / "teacher.pth")])


@pytest.mark.parametrize(
    ("figure", "shown", "better"),
    [(Figure("a", "mIoU"), "61.38", 0.7), (Figure("a", "RMSE", "m", greater_is_better=False), "0.6138", 0.5)],
)
def test_a_figure_knows_its_text_and_its_direction(figure, shown, better):
    assert (figure.text(0.61383), figure.text(None)) == (shown, "-")
    assert figure.is_better(better, 0.61383)
    assert not figure.is_better(0.61383, better)
    assert not figure.is_better(0.61383, 0.61383)
    assert figure.is_better(better, None)
    assert not figure.is_better(math.nan, None)


def test_a_gain_is_towards_the_better_side_of_a_figure():
    assert Figure("mean_iou", "mIoU").gain(0.5, 0.75) == 0.25
    assert Figure("rmse", "RMSE", "", greater_is_better=False).gain(0.5, 0.25) == 0.5
