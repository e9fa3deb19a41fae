import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from segdistill.utils.metrics import ConfusionMatrix


def random_maps(num_classes=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, (3, 20, 30), generator=generator)
    predictions = torch.where(torch.rand(3, 20, 30, generator=generator) < 0.6, labels, (labels + 1) % num_classes)
    labels[torch.rand(3, 20, 30, generator=generator) < 0.1] = 255
    return predictions, labels


def test_mean_iou_is_that_of_torchmetrics():
    predictions, labels = random_maps()
    confusion = ConfusionMatrix(6)
    confusion.update(predictions, labels)
    expected = MulticlassJaccardIndex(6, ignore_index=255)(predictions, labels)
    assert confusion.mean_iou() == pytest.approx(expected.item(), abs=1e-6)


def test_counts_are_a_brute_force_loop_s():
    predictions, labels = random_maps()
    confusion = ConfusionMatrix(6)
    confusion.update(predictions.numpy().astype(np.uint8), labels.numpy().astype(np.uint8))
    expected = torch.zeros(7, 7, dtype=torch.int64)
    for truth, guess in zip(labels.flatten().tolist(), predictions.flatten().tolist(), strict=True):
        expected[6 if truth == 255 else truth, guess] += 1
    assert torch.equal(confusion.matrix, expected)


def test_updates_add_up_whatever_the_split():
    predictions, labels = random_maps()
    whole, parts = ConfusionMatrix(6), ConfusionMatrix(6)
    whole.update(predictions, labels)
    for prediction, label in zip(predictions, labels, strict=True):
        parts.update(prediction, label)
    assert torch.equal(whole.matrix, parts.matrix)


def test_a_prediction_outside_the_classes_is_an_error_not_a_void():
    confusion = ConfusionMatrix(2)
    confusion.update(torch.tensor([0, 0, 2, 1]), torch.tensor([0, 0, 0, 1]))
    assert confusion.iou().tolist() == [pytest.approx(2 / 3), 1.0]
    assert confusion.pixel_accuracy() == 0.75


def test_counting_void_makes_predictions_on_void_false_positives():
    confusion = ConfusionMatrix(2)
    confusion.update(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 255, 1, 1]))
    assert confusion.iou().tolist() == [1.0, 1.0]
    assert confusion.iou(count_void=True).tolist() == [0.5, 1.0]
    assert (confusion.pixel_accuracy(), confusion.pixel_accuracy(count_void=True)) == (1.0, 0.75)
    assert confusion.class_accuracy().tolist() == [1.0, 1.0]


def test_an_absent_class_leaves_the_mean_but_a_false_alarm_of_it_does_not():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert torch.isnan(confusion.iou()[2])
    assert confusion.mean_iou() == 1.0
    confusion.update(torch.tensor([2]), torch.tensor([0]))
    assert confusion.iou().tolist() == [0.5, 1.0, 0.0]


def test_shapes_that_differ_are_an_error():
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        ConfusionMatrix(2).update(torch.zeros(2), torch.zeros(3))


def test_frequency_weighted_iou_weights_classes_by_their_share_of_the_truth():
    predictions, labels = random_maps()
    confusion = ConfusionMatrix(7)  # class 6 does not occur
    confusion.update(predictions, labels)
    share = torch.bincount(labels[labels != 255], minlength=7) / (labels != 255).sum()
    assert confusion.frequency_weighted_iou() == pytest.approx((share * confusion.iou().nan_to_num(0)).sum().item())


def test_categories_forgive_a_confusion_within_one():
    predictions, labels = random_maps()
    confusion = ConfusionMatrix(6)
    confusion.update(predictions, labels)
    category_of = torch.tensor([0, 1, 1, 0, 2, 2])
    expected = ConfusionMatrix(3)
    expected.update(category_of[predictions], torch.where(labels == 255, 255, category_of[labels.clamp(max=5)]))
    assert torch.equal(confusion.merged([(0, 3), (1, 2), (4, 5)]).matrix, expected.matrix)


def test_a_class_of_no_category_counts_as_void():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([0, 1, 2, 2, 2]), torch.tensor([0, 1, 2, 0, 255]))
    assert confusion.merged([(0,), (1,)]).matrix.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 2]]


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64])
def test_negative_labels_are_void(dtype):
    confusion = ConfusionMatrix(2)
    confusion.update(torch.tensor([0, 1, 1], dtype=dtype), torch.tensor([0, -1, 1], dtype=dtype))
    assert confusion.matrix.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
