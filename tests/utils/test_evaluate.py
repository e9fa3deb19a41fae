"""Evaluation: every image counted once, whatever its size."""

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.dataset import build_dataset
from segdistill.dataset.normalization import CAFFE
from segdistill.network import build_network
from segdistill.utils.evaluate import evaluate
from segdistill.utils.metrics import ConfusionMatrix
from segdistill.utils.predict import class_ids, whole

SIZES = ((40, 56), (64, 64), (33, 47))


@pytest.fixture
def unequal(tmp_path):
    """Three validation images of different sizes."""
    rng = np.random.default_rng(0)
    for folder in ("val", "valannot"):
        (tmp_path / folder).mkdir()
    for i, size in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"val/{i}.png")
        Image.fromarray(rng.integers(0, 12, size, dtype=np.uint8)).save(tmp_path / f"valannot/{i}.png")
    return build_dataset("camvid", tmp_path, "val")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_of_unequal_size_count_by_their_pixels(unequal, num_workers):
    torch.manual_seed(0)
    network = build_network("espnet_c", 11, p=1, q=1)
    confusion = evaluate(whole(network), unequal, CAFFE, num_workers=num_workers)
    expected = ConfusionMatrix(11)
    for sample in unequal:
        logits = whole(network)(CAFFE(sample.image[None]))
        assert logits.shape[2:] == sample.label.shape
        expected.update(class_ids(logits)[0], sample.label)
    assert torch.equal(confusion.matrix, expected.matrix)
    assert confusion.matrix.sum() == sum(height * width for height, width in SIZES)


@pytest.mark.parametrize("batch_size", [2, 3])
def test_batches_score_as_single_images(unequal, batch_size):
    twice = [0, 1, 2, 0, 1, 2, 2]
    torch.manual_seed(0)
    predictor = whole(build_network("espnet_c", 11, p=1, q=1))
    single = evaluate(predictor, unequal, CAFFE, indices=twice)
    batched = evaluate(predictor, unequal, CAFFE, indices=twice, batch_size=batch_size)
    moved = (single.matrix - batched.matrix).abs().sum() / 2
    assert batched.matrix.sum() == single.matrix.sum()
    assert moved <= 2  # a convolution may round otherwise in a batch


def test_a_choice_of_images_is_scored_alone(unequal):
    network = build_network("espnet_c", 11, p=1, q=1)
    assert evaluate(whole(network), unequal, CAFFE, indices=[2]).matrix.sum() == 33 * 47


def test_the_best_constant_answer_has_the_share_of_its_class_over_the_classes():
    confusion = ConfusionMatrix(4)
    confusion.update(torch.zeros(1, 10, dtype=torch.int64), torch.tensor([[1] * 6 + [2] * 2 + [255] * 2]))
    assert confusion.best_constant() == pytest.approx(6 / 8 / 2)
    constant = ConfusionMatrix(4)
    constant.update(torch.ones(1, 10, dtype=torch.int64), torch.tensor([[1] * 6 + [2] * 2 + [255] * 2]))
    assert constant.mean_iou() == pytest.approx(confusion.best_constant())
