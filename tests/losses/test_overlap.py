"""Dice and Lovász against segmentation_models_pytorch, with void pixels and images without labels."""

import pytest
import segmentation_models_pytorch as smp
import torch

from segdistill.utils.losses.overlap import dice_loss, lovasz_loss

LOSSES = {
    dice_loss: smp.losses.DiceLoss("multiclass", ignore_index=255),
    lovasz_loss: smp.losses.LovaszLoss("multiclass", ignore_index=255),
}


def maps(num_classes=5):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, num_classes, 12, 16, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, num_classes - 1, (2, 12, 16), generator=generator)  # the last class does not occur
    labels[0, :3] = 255
    return logits.requires_grad_(), labels


@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_gradient_are_those_of_segmentation_models_pytorch(loss):
    logits, labels = maps()
    logits = logits.detach().float().requires_grad_()
    values = loss(logits, labels), LOSSES[loss](logits, labels)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in values), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_void_pixels_and_images_without_labels_do_not_count(loss):
    logits, labels = maps()
    value = loss(logits, labels.byte())
    changed = logits.detach().clone()
    changed[0, :, :3] = 50
    more = torch.cat([changed, torch.randn(1, 5, 12, 16, dtype=torch.float64)])
    torch.testing.assert_close(loss(more, torch.cat([labels, torch.full((1, 12, 16), 255)])), value)
    nothing = loss(logits, torch.full_like(labels, 255))
    nothing.backward()
    assert nothing == 0
    assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_a_perfect_prediction_costs_nothing_and_the_opposite_most(loss):
    labels = torch.tensor([[[0, 0, 1, 1]]])
    logits = 100 * torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).float()
    assert loss(logits, labels) == pytest.approx(0, abs=1e-6)
    assert loss(-logits, labels) == pytest.approx(1, abs=1e-6)
    assert loss(logits.bfloat16(), labels).dtype == torch.float32
