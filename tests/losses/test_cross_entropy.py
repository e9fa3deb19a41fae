import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from waves import STUDENT_LOGITS, TEACHER_LOGITS, batch_of, output_of, striped_labels

from segdistill.utils.losses import TaskLoss, cross_entropy_loss, ohem_loss
from segdistill.utils.losses.base import resize_labels
from segdistill.utils.losses.overlap import dice_loss, lovasz_loss

LABELS = striped_labels()


def kept(logits: torch.Tensor, labels: torch.Tensor, **options) -> torch.Tensor:
    """The pixels that receive a gradient from OHEM, for logits of the size of the labels."""
    logits = logits.clone().requires_grad_()
    ohem_loss(logits, labels, **options).backward()
    return logits.grad.abs().sum(1) > 0


def test_value_on_waves():
    assert cross_entropy_loss(STUDENT_LOGITS, LABELS).item() == pytest.approx(2.1016226, rel=1e-7)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({}, 3.2538287),
        ({"ohem": {}}, 3.2538287),
        ({"ohem": {"min_kept": 640}}, 3.2940929),
        ({"ohem": {"min_kept": 0}}, 3.2940929),
        ({"ohem": {"threshold": 0.1, "min_kept": 640}}, 4.449848),
        ({"ohem": {"threshold": 0.1, "min_kept": 0}}, 4.449848),
    ],
)
def test_deep_supervision_on_waves(options, value):
    output = output_of(logits=STUDENT_LOGITS, aux_logits=TEACHER_LOGITS)
    assert TaskLoss(0.4, **options)(output, batch_of(LABELS)).item() == pytest.approx(value, rel=1e-7)


def test_void_pixels_do_not_count():
    logits = STUDENT_LOGITS.clone().requires_grad_()
    labels = torch.zeros(2, 9, 13, dtype=torch.int64)
    labels[:, 4:] = 255
    loss = cross_entropy_loss(logits, labels)
    torch.testing.assert_close(loss, F.cross_entropy(STUDENT_LOGITS[:, :, :4], labels[:, :4]))
    loss.backward()
    assert logits.grad[:, :, 4:].abs().sum() == 0


@pytest.mark.parametrize("loss", [cross_entropy_loss, ohem_loss])
def test_no_valid_pixel_gives_zero_with_zero_gradient(loss):
    logits = STUDENT_LOGITS.clone().requires_grad_()
    value = loss(logits, torch.full((2, 36, 52), 255))
    (100 * value).backward()
    assert value == 0
    assert logits.grad.abs().sum() == 0


def test_another_void_label_is_respected():
    labels = LABELS.masked_fill(LABELS == 255, -1)
    assert cross_entropy_loss(STUDENT_LOGITS, labels, ignore_index=-1) == cross_entropy_loss(STUDENT_LOGITS, LABELS)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_any_integer_type_give_the_same(dtype):
    for loss in (cross_entropy_loss, ohem_loss):
        assert loss(STUDENT_LOGITS, LABELS.to(dtype)) == loss(STUDENT_LOGITS, LABELS)


def test_batch_is_weighted_by_its_valid_pixels():
    counts = [(LABELS[n] != 255).sum() for n in range(2)]
    parts = [counts[n] * cross_entropy_loss(STUDENT_LOGITS[n : n + 1], LABELS[n : n + 1]) for n in range(2)]
    torch.testing.assert_close(cross_entropy_loss(STUDENT_LOGITS, LABELS), sum(parts) / sum(counts))


def test_shares_of_a_batch_average_to_the_loss_of_the_batch():
    """Each process divides by the mean count; the mean of their gradients is then that of the whole batch."""
    labels = LABELS.clone()
    labels[1, 10:] = 255
    num_valid = (labels != 255).sum() / 2
    parts = [cross_entropy_loss(STUDENT_LOGITS[n : n + 1], labels[n : n + 1], num_valid=num_valid) for n in range(2)]
    torch.testing.assert_close(sum(parts) / 2, cross_entropy_loss(STUDENT_LOGITS, labels), check_dtype=False)


@pytest.mark.parametrize("loss", [cross_entropy_loss, ohem_loss])
def test_half_precision_is_computed_in_float32(loss):
    logits = STUDENT_LOGITS.bfloat16()
    value = loss(logits, LABELS)
    assert value.dtype == torch.float32
    assert value == loss(logits.float(), LABELS)


def test_gradient_is_right():
    logits = STUDENT_LOGITS[:1, :, :3, :4].clone().requires_grad_()
    labels = LABELS[:1, :7, :9]
    assert torch.autograd.gradcheck(lambda x: cross_entropy_loss(x, labels), logits)


def test_ohem_keeps_the_pixels_below_the_threshold():
    labels = LABELS[:, ::4, ::4]
    own = STUDENT_LOGITS.softmax(1).gather(1, labels.where(labels != 255, 0)[:, None])[:, 0]
    expected = (own <= 0.3) & (labels != 255)
    assert 0 < expected.sum() < (labels != 255).sum()
    assert torch.equal(kept(STUDENT_LOGITS, labels, threshold=0.3, min_kept=0), expected)


def test_ohem_raises_its_threshold_to_keep_enough():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (2, 64, 64), generator=generator)
    logits = 6 * F.one_hot(labels, 4).permute(0, 3, 1, 2) + torch.randn(2, 4, 64, 64, generator=generator)
    few = kept(logits, labels, threshold=0.7, min_kept=0).sum()
    many = kept(logits, labels, threshold=0.7, min_kept=4096).sum()
    assert few < 200
    assert many == pytest.approx(4096, rel=0.3)


def test_ohem_with_no_hard_pixel_is_zero_and_not_nan():
    labels = torch.zeros(1, 16, 16, dtype=torch.int64)
    logits = torch.zeros(1, 3, 16, 16)
    logits[:, 0] = 20
    assert ohem_loss(logits, labels, threshold=0.5, min_kept=0) == 0


# At one side in ten, such as 480, scipy's zoom rounds the last coordinate out of the map and reads a zero there.
@pytest.mark.parametrize("side", [8, 24, 40, 47, 56, 61, 65, 97, 360, 512, 1024])
def test_ohem_shrinks_labels_as_scipys_zoom_does(side):
    expected = ndimage.zoom(np.arange(side), 1 / 8, order=0)
    assert resize_labels(torch.arange(side)[None, None], (1, len(expected)))[0, 0].tolist() == expected.tolist()


def test_ohem_takes_maps_smaller_than_its_factor():
    logits, labels = STUDENT_LOGITS[:, :, :3, :4], LABELS[:, :3, :4]
    assert ohem_loss(logits, labels, threshold=1.0) == cross_entropy_loss(logits, labels)


def test_aux_head_is_asked_for_only_where_it_has_a_weight():
    assert TaskLoss().wanted == {"logits"}
    assert TaskLoss(0.4).wanted == {"logits", "aux_logits"}
    assert TaskLoss()(output_of(logits=STUDENT_LOGITS), batch_of(LABELS)) == cross_entropy_loss(STUDENT_LOGITS, LABELS)


@pytest.mark.parametrize("loss", [cross_entropy_loss, ohem_loss])
@pytest.mark.parametrize("labels", [LABELS[:1], LABELS[:, None]], ids=["batch", "rank"])
def test_labels_that_do_not_fit_are_an_error(loss, labels):
    with pytest.raises(ValueError, match=r"logits \(2, 5, 9, 13\) and labels"):
        loss(STUDENT_LOGITS, labels)


def test_the_deterministic_form_gives_the_same_value_and_gradient():
    results = []
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        logits = STUDENT_LOGITS.clone().requires_grad_()
        value = cross_entropy_loss(logits, LABELS)
        value.backward()
        results.append((value, logits.grad))
    torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (3, 1), (80, 90)])
def test_loss_is_that_of_bilinear_logits_with_aligned_corners(size):
    torch.manual_seed(0)
    logits = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (2, 83, 41))
    resized = F.interpolate(logits, (83, 41), mode="bilinear", align_corners=True)
    expected = F.cross_entropy(resized, labels)
    loss = cross_entropy_loss(logits, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-15)


WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0])
SETTINGS = [
    {"class_weights": WEIGHTS},
    {"label_smoothing": 0.2},
    {"class_weights": WEIGHTS, "label_smoothing": 0.2},
]


def enlarged():
    logits = F.interpolate(STUDENT_LOGITS, LABELS.shape[1:], mode="bilinear", align_corners=True)
    return logits.requires_grad_()


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("deterministic", [False, True])
def test_weights_and_smoothing_are_torchs(settings, deterministic):
    logits, labels = enlarged(), LABELS.long()
    weights, smoothing = settings.get("class_weights"), settings.get("label_smoothing", 0.0)
    whole = torch.nn.CrossEntropyLoss(
        None if weights is None else weights.to(logits), ignore_index=255, reduction="sum", label_smoothing=smoothing
    )
    expected = whole(logits, labels) / (labels != 255).sum()
    torch.use_deterministic_algorithms(deterministic)
    value = cross_entropy_loss(logits, labels, **settings)
    torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (value, expected)))


def test_weights_of_mean_one_give_torchs_weighted_mean():
    """Torch divides by the sum of the pixels' weights, which then is the number of pixels."""
    labels = LABELS.long()
    shares = torch.bincount(labels[labels != 255], minlength=5) / (labels != 255).sum()
    weights = WEIGHTS / (shares @ WEIGHTS)
    expected = F.cross_entropy(enlarged(), labels, weights.to(STUDENT_LOGITS), ignore_index=255)
    torch.testing.assert_close(cross_entropy_loss(enlarged(), labels, class_weights=weights), expected)


@pytest.mark.parametrize("settings", [*SETTINGS, {}])
def test_a_focal_factor_is_that_of_each_pixel(settings):
    logits, labels = enlarged(), LABELS.long()
    weights, smoothing = settings.get("class_weights"), settings.get("label_smoothing", 0.0)
    weights = None if weights is None else weights.to(logits)
    each = F.cross_entropy(logits, labels, weights, ignore_index=255, reduction="none", label_smoothing=smoothing)
    hardness = 1 - (-F.cross_entropy(logits, labels, ignore_index=255, reduction="none")).exp()
    expected = (hardness**2 * each).sum() / (labels != 255).sum()
    torch.testing.assert_close(cross_entropy_loss(logits, labels, focal=2.0, **settings), expected)
    certain = torch.zeros(1, 2, 4, 4)
    certain[:, 0] = 100
    certain.requires_grad_()
    cross_entropy_loss(certain, torch.zeros(1, 4, 4, dtype=torch.uint8), focal=0.5).backward()
    assert certain.grad.isfinite().all()


@pytest.mark.parametrize("settings", [*SETTINGS, {"focal": 2.0}])
def test_shares_of_a_batch_average_to_the_batch_with_every_setting(settings):
    labels = LABELS.clone()
    labels[1, 10:] = 255
    num_valid = (labels != 255).sum() / 2
    parts = [
        cross_entropy_loss(STUDENT_LOGITS[n : n + 1], labels[n : n + 1], num_valid=num_valid, **settings)
        for n in range(2)
    ]
    torch.testing.assert_close(sum(parts) / 2, cross_entropy_loss(STUDENT_LOGITS, labels, **settings))


def test_the_terms_of_the_task_loss_add_up():
    output, batch = output_of(logits=STUDENT_LOGITS, aux_logits=TEACHER_LOGITS), batch_of(LABELS)
    smoothed = {"class_weights": WEIGHTS.tolist(), "label_smoothing": 0.1}
    given = {"class_weights": WEIGHTS, "label_smoothing": 0.1}
    expected = (
        cross_entropy_loss(STUDENT_LOGITS, LABELS, focal=2.0, **given)
        + 0.4 * cross_entropy_loss(TEACHER_LOGITS, LABELS, **given)
        + 3 * dice_loss(enlarged(), LABELS)
        + 2 * lovasz_loss(enlarged(), LABELS)
    )
    loss = TaskLoss(0.4, focal=2.0, dice=3.0, lovasz=2.0, **smoothed)(output, batch)
    torch.testing.assert_close(loss, expected)
    hard = TaskLoss(ohem={"min_kept": 0, "threshold": 0.3}, **smoothed)(output, batch)
    torch.testing.assert_close(hard, ohem_loss(STUDENT_LOGITS, LABELS, 0.3, 0, **given))
