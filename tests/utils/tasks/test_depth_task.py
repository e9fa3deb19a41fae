"""Depth: scores and losses against computations in numpy, alignments, networks that answer in depth."""

import math

import numpy as np
import pytest
import torch

from segdistill.dataset import IGNORE_INDEX, CamVid
from segdistill.dataset.base import Sample, Selection
from segdistill.dataset.depth import DepthRange
from segdistill.dataset.normalization import IMAGENET
from segdistill.dataset.transforms import RandomCrop
from segdistill.network import NETWORKS, SegmentationOutput, build_network, load_network
from segdistill.network.depth import RELATIVE, positive_depth
from segdistill.network.weights.checkpoint import load_weights
from segdistill.utils.batch import make_batches
from segdistill.utils.losses.depth import LOSSES, scale_shift_invariant_loss
from segdistill.utils.tasks import TASKS, build_loss
from segdistill.utils.tasks.depth import CROPS, DepthScores, aligned, colors_of
from segdistill.utils.teacher import Teacher

LIMITS = DepthRange(0.5, 20.0)


def random_maps(seed=0, shape=(3, 24, 32), void=0.3):
    """Predictions and labels (N, H, W) float64, of which some labels are void."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.3, 25, shape)  # some beyond the range
    prediction = truth * np.exp(rng.normal(0, 0.3, shape))
    truth[rng.random(shape) < void] = np.nan
    return prediction, truth


def numpy_scores(prediction, truth, align):
    rows = []
    for p, t in zip(prediction, truth, strict=True):
        known = np.isfinite(t) & (np.nan_to_num(t) >= LIMITS.low) & (np.nan_to_num(t) <= LIMITS.high)
        p, t = p[known], t[known]
        if align == "median":
            p = p * np.sort(t)[(len(t) - 1) // 2] / np.sort(p)[(len(p) - 1) // 2]
        if align == "lstsq":
            design = np.stack([1 / p, np.ones_like(p)], axis=1)
            scale, shift = np.linalg.lstsq(design, 1 / t, rcond=None)[0]
            p = 1 / np.maximum(scale / p + shift, 1 / LIMITS.high)
        p = np.clip(p, LIMITS.low, LIMITS.high)
        ratio, logs = np.maximum(p / t, t / p), np.log(p) - np.log(t)
        rows.append(
            (
                *(np.mean(ratio < 1.25**power) for power in (1, 2, 3)),
                *(np.mean(abs(p - t) / t), np.mean((p - t) ** 2 / t), np.sqrt(np.mean((p - t) ** 2))),
                *(np.sqrt(np.mean(logs**2)), np.mean(abs(np.log10(p) - np.log10(t))), np.std(logs)),
            )
        )
    return dict(zip(DepthScores.NAMES, np.mean(rows, axis=0), strict=True))


@pytest.mark.parametrize("align", ["none", "median", "lstsq"])
def test_each_score_equals_a_computation_in_numpy(align):
    prediction, truth = random_maps()
    scores = DepthScores(LIMITS, align)
    for part in (slice(2), slice(2, 3)):
        scores.update(*(torch.from_numpy(x[part]) for x in (prediction, truth)))
    scores.update(torch.ones(1, 4, 4), torch.full((1, 4, 4), math.nan))  # an image without labels does not count
    assert scores.figures() == pytest.approx(numpy_scores(prediction, truth, align), abs=1e-9)


@pytest.mark.parametrize("align", ["median", "lstsq"])
def test_an_alignment_recovers_a_planted_scale_and_shift(align):
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(rng.uniform(1, 19, 5001))
    prediction = 3 * truth if align == "median" else 1 / (0.4 / truth + 2)
    torch.testing.assert_close(aligned(prediction, truth, align, LIMITS), truth, rtol=1e-9, atol=1e-9)
    scores = DepthScores(LIMITS, align)
    scores.update(prediction[None, None].float(), truth[None, None])
    assert scores.figures()["delta1"] == 1
    assert scores.figures()["rmse"] < 1e-4


def test_a_crop_leaves_the_border_out():
    labels = torch.full((1, 480, 640), 2.0)
    predictions = torch.full_like(labels, 10.0)
    predictions[:, 45:471, 41:601] = 2
    scores = DepthScores(LIMITS, crop="nyu")
    scores.update(predictions, labels)
    assert scores.figures()["abs_rel"] == 0
    assert scores.num_labelled() == 426 * 560
    assert set(CROPS) == {"none", "nyu", "garg"}


@pytest.mark.parametrize("align", ["none", "median"])
def test_the_best_constant_is_the_best_of_all_constants(align):
    _, truth = random_maps(1)
    truth = torch.from_numpy(truth)
    scores = DepthScores(LIMITS, align)
    scores.update(torch.ones_like(truth), truth)

    def delta1(constant):
        other = DepthScores(LIMITS, align)
        other.update(torch.full_like(truth, constant), truth)
        return other.figures()["delta1"]

    assert scores.best_constant() == pytest.approx(max(map(delta1, np.geomspace(0.5, 20, 400))), abs=0.01)


def numpy_loss(kind, prediction, truth):
    """The loss over all images, each from its definition, in loops over images."""
    values, counts = [], []
    for p, t in zip(prediction, truth, strict=True):
        known = np.isfinite(t)
        p1, t1 = p[known], t[known]
        x = abs(p1 - t1)
        if kind == "silog":
            g = np.log(p1) - np.log(t1)
            value = np.mean(g**2) - np.mean(g) ** 2 / 2
        elif kind == "l1":
            value = np.mean(x)
        elif kind == "berhu":
            c = x.max() / 5
            value = np.mean(np.where(x <= c, x, (x**2 + c**2) / (2 * c)))
        else:
            difference = np.where(known, standard(p, known) - standard(t, known), 0)
            value = np.mean(abs(difference[known])) / 2
        values.append(value)
        counts.append(known.sum())
    return np.average(values, weights=counts)


def standard(x, known):
    d = 1 / x
    median = np.sort(d[known])[(known.sum() - 1) // 2]
    return (d - median) / np.mean(abs(d[known] - median))


@pytest.mark.parametrize("kind", LOSSES)
def test_each_loss_equals_a_computation_in_numpy(kind):
    prediction, truth = random_maps(2)
    tensors = torch.from_numpy(prediction), torch.from_numpy(truth)
    valid = tensors[1].isfinite()
    settings = {"gradient": 0.0} if kind == "ssi" else {}
    value = LOSSES[kind](*tensors, valid, **settings)
    assert value.item() == pytest.approx(numpy_loss(kind, prediction, truth), abs=1e-9)
    # Parts of a batch add up, and what is void has no gradient, NaN or not.
    total = valid.sum().double() / 3
    parts = [LOSSES[kind](*(x[i : i + 1] for x in (*tensors, valid)), total, **settings) for i in range(3)]
    assert torch.stack(parts).mean().item() == pytest.approx(value.item(), abs=1e-9)
    learned = tensors[0].clone().requires_grad_()
    LOSSES[kind](learned, tensors[1], valid).backward()
    assert learned.grad.isfinite().all()
    assert (learned.grad[~valid] == 0).all()
    assert LOSSES[kind](*tensors, torch.zeros_like(valid)) == 0


def test_scale_and_shift_of_disparity_do_not_matter_to_ssi_and_edges_do():
    prediction, truth = (torch.from_numpy(x) for x in random_maps(3, void=0))
    valid = torch.ones_like(truth, dtype=torch.bool)
    value = scale_shift_invariant_loss(prediction, truth, valid)
    other = scale_shift_invariant_loss(prediction, 1 / (5 / truth + 3), valid)
    assert other.item() == pytest.approx(value.item(), abs=1e-9)
    assert scale_shift_invariant_loss(1 / (2 / truth + 1), truth, valid) < 1e-9
    assert value > scale_shift_invariant_loss(prediction, truth, valid, gradient=0.0)


def test_gradient_matching_equals_its_sums_over_four_scales():
    prediction, truth = random_maps(4, shape=(1, 16, 16), void=0)
    known = np.ones((16, 16), bool)
    difference = standard(prediction[0], known) - standard(truth[0], known)
    expected = 0
    for step in (1, 2, 4, 8):
        coarse = difference[::step, ::step]
        expected += (abs(np.diff(coarse, axis=0)).sum() + abs(np.diff(coarse, axis=1)).sum()) / coarse.size
    tensors = [torch.from_numpy(x) for x in (prediction, truth)]
    valid = torch.ones(1, 16, 16, dtype=torch.bool)
    values = [scale_shift_invariant_loss(*tensors, valid, gradient=weight).item() for weight in (0.0, 1.0)]
    assert values[1] - values[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", [*NETWORKS, "smp:fpn"])
def test_every_network_answers_with_one_positive_map(name):
    if name.startswith("smp:"):
        pytest.importorskip("segmentation_models_pytorch")
    network = build_network(name, 1, depth=LIMITS).eval()
    assert (network.num_classes, network.depth) == (0, LIMITS)
    output = network(torch.randn(1, 3, 64, 96), ("depth",))
    assert output.logits is None
    depth = output.features["depth"]
    assert depth.shape[:2] == (1, 1)
    assert ((depth > LIMITS.low) & (depth < LIMITS.high)).all()
    # The config describes it: plain data, as checkpoints hold.
    again = build_network(**network.config).eval()
    again.load_state_dict(network.state_dict())
    assert again.features == network.features


def test_the_ends_of_the_range_and_its_middle():
    maps = torch.tensor([-100.0, 0.0, 100.0]).view(1, 1, 1, 3)
    expected = torch.tensor([0.5, math.sqrt(10), 20.0]).view(1, 1, 1, 3)
    torch.testing.assert_close(positive_depth(maps, LIMITS), expected)


def test_a_student_of_depth_starts_from_a_network_of_classes():
    source = build_network("espnet_c", 19, p=1, q=1)
    content = {"format": "segdistill", "format_version": 1, "config": source.config, "state_dict": source.state_dict()}
    content["normalization"] = ("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0)
    network = build_network("espnet_c", 1, p=1, q=1, depth=LIMITS)
    report = load_weights(network, content, skip_classifier=True)
    assert report.skipped == ["classifier.conv.weight"]
    assert torch.equal(network.level1.conv.weight, source.level1.conv.weight)
    loaded, _ = load_network({**content, "config": network.config, "state_dict": network.state_dict()})
    assert loaded.depth == LIMITS


def test_colours_are_brighter_the_nearer_and_void_is_black():
    depth = np.array([[0.5, 2.0, 8.0, 20.0, np.nan]])
    colors = colors_of(depth, LIMITS).astype(int).sum(2)[0]
    assert (np.diff(colors) < 0).all()
    assert colors[-1] == 0


def test_settings_of_another_task_are_refused():
    network = build_network("espnet_c", 1, p=1, q=1, depth=LIMITS)
    assert build_loss(TASKS["depth"], network, 1.0, {"depth_loss": "berhu"}).name == "berhu"
    with pytest.raises(ValueError, match="--ohem has no effect with --task depth"):
        build_loss(TASKS["depth"], network, 1.0, {"ohem": {}})
    with pytest.raises(ValueError, match="--depth-loss has no effect with --task segmentation"):
        build_loss(TASKS["segmentation"], build_network("espnet_c", 5), 1.0, {"depth_loss": "l1"})


@pytest.mark.parametrize("parts", [1, 2])
def test_labels_that_the_network_cannot_answer_with_do_not_count(parts):
    labels = torch.full((2, 4, 4), 30.0)
    labels[0, :2], labels[1, 1:], labels[1, 0, 0] = 120, 1, math.nan
    sample = Sample(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), labels, "", torch.zeros(2, 2))
    task, network = TASKS["depth"], build_network("espnet_c", 1, p=1, q=1, depth=(2.0, 80.0))
    batches = make_batches(sample, IMAGENET, parts=parts, limits=task.limits(network))
    loss = task.loss(network, weight=1.0, depth_loss="l1")
    answers = [SegmentationOutput(None, {"depth": torch.full((len(b.images), 1, 4, 4), 20.0)}) for b in batches]
    values = [loss(answer, batch) for answer, batch in zip(answers, batches, strict=True)]
    assert torch.stack(values).mean() == 10
    assert batches[0].num_valid * parts == batches[0].num_kept * parts == 8 + 3
    assert TASKS["segmentation"].limits(build_network("espnet_c", 5, p=1, q=1)) is None


class Values(CamVid):
    """Labels are values."""

    TASKS = ("depth",)

    def read_label(self, index):
        return torch.full((360, 480), float(index))


def test_a_teacher_of_relative_depth_is_aligned_on_crops_too(tiny):
    class Flat(Values):
        def read_label(self, index):
            return torch.full((64, 64), 30.0 + index)

    network = build_network("espnet_c", 1, p=1, q=1, depth=[*RELATIVE])  # untrained, about 10
    crops = Flat(tiny / "camvid", "train", transform=RandomCrop((32, 32), scale_labels=True))
    assert Teacher(network, IMAGENET, IMAGENET).measure_crops(crops)["delta1"] == 1


def test_an_image_without_label_is_void_in_the_labels_own_type(tiny):
    dataset = Values(tiny / "camvid", "train")
    dataset.pairs = [pair._replace(label=None) for pair in dataset.pairs]
    label = dataset.read(0).label
    assert label.dtype == torch.float32
    assert label.isnan().all()
    labelled = CamVid(tiny / "camvid", "train")
    selection = Selection([labelled.read(0)], [], [0])
    assert (selection[0].label == IGNORE_INDEX).all()
    values = [labelled.read(0)._replace(label=torch.ones(2, 2))]
    assert Selection(values, [], [0])[0].label.isnan().all()
