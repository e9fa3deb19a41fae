"""Augmentation: what each does to image and label, and that it is a function of the sample's generator alone."""

import pytest
import torch

from segdistill.dataset.augment import AUGMENTATIONS, AugmentedCrop, parse_augmentations
from segdistill.dataset.base import generator_of
from segdistill.dataset.transforms import FILL, RandomCrop, class_share

ALL = {name: known.default for name, known in AUGMENTATIONS.items()}


def picture(height=60, width=80):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 8, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (255 * image).byte(), ((rows // 8 + columns // 8) % 11).byte()


def samples(count, **steps):
    """The samples of generators 0 ... count - 1, and those without the steps."""
    image, label = picture()
    size = 48, 48
    augmented = [AugmentedCrop(size, steps=steps)(image, label, generator_of("test", i)) for i in range(count)]
    return augmented, [RandomCrop(size)(image, label, generator_of("test", i)) for i in range(count)]


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_is_a_function_of_the_generator(name):
    image, label = picture()
    augment = AugmentedCrop((48, 48), (0.5, 2.0), True, steps={name: ALL[name]})
    first = [augment(image, label, generator_of("test", i)) for i in range(12)]
    torch.manual_seed(3)
    second = [augment(image, label, generator_of("test", i)) for i in range(12)]
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
        assert [(x.shape, x.dtype) for x in one] == [((3, 48, 48), torch.uint8), ((48, 48), torch.uint8)]
    plain = [RandomCrop((48, 48), (0.5, 2.0), True)(image, label, generator_of("test", i))[0] for i in range(12)]
    assert any(not torch.equal(one[0], other) for one, other in zip(first, plain, strict=True))
    assert len({one[0].float().mean().item() for one in first}) > 8


@pytest.mark.parametrize("name", [name for name, known in AUGMENTATIONS.items() if known.photometric])
def test_colours_leave_the_label_and_the_teachers_view_alone(name):
    image, label = picture()
    steps = {"rotate": 20.0, name: ALL[name]}
    for i in range(6):
        _, ids, weak = AugmentedCrop((48, 48), steps=steps, weak_view=True)(image, label, generator_of("test", i))
        moved = AugmentedCrop((48, 48), steps={"rotate": 20.0})(image, label, generator_of("test", i))
        assert torch.equal(weak, moved[0])
        assert torch.equal(ids, moved[1])


def test_grey_takes_its_share_of_the_samples():
    augmented, _ = samples(200, grey=0.3)
    greys = sum(bool((image == image[:1]).all()) for image, _ in augmented)
    assert 40 < greys < 80


def test_blur_takes_its_share_and_smooths():
    augmented, plain = samples(60, blur=0.5)
    different = [
        (one[0].float(), other[0].float())
        for one, other in zip(augmented, plain, strict=True)
        if not torch.equal(one[0], other[0])
    ]
    assert 15 < len(different) < 45
    assert all(one.diff(dim=2).abs().sum() < other.diff(dim=2).abs().sum() for one, other in different)


def test_photometric_distortion_keeps_to_its_bounds():
    grey = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    label = torch.zeros(8, 8, dtype=torch.uint8)
    augment = AugmentedCrop((8, 8), steps={"photometric": 1.0})
    values = torch.tensor([augment(grey, label, generator_of("test", i))[0][0, 0, 0].item() for i in range(400)])
    assert values.min() < 50  # of a grey picture only brightness and contrast are seen
    assert values.max() > 170
    assert values.min() >= round((100 - 32) * 0.5)
    assert values.max() <= round((100 + 32) * 1.5)
    assert 0.15 < (values == 100).float().mean() < 0.35


def test_rotation_moves_label_and_image_alike_and_fills_the_corners():
    ids = (torch.arange(3600).reshape(60, 60) // 300).byte()
    image = ids.repeat(3, 1, 1) * 20
    turned, label = AugmentedCrop((60, 60), steps={"rotate": 40.0})(image, ids, generator_of("test", 1))
    outside = label == 255
    assert 0.02 < outside.float().mean() < 0.4
    assert outside[0, 0]
    assert (turned[:, 0, 0] == torch.tensor(FILL)).all()
    same = (turned[0].float() - 20 * label.float()).abs() <= 10
    assert same[~outside].float().mean() > 0.9
    assert set(label[~outside].tolist()) <= set(ids.unique().tolist())


def test_rotated_values_without_a_label_are_not_numbers():
    values = torch.full((40, 40), 2.5)
    values[:10] = torch.nan
    _, label = AugmentedCrop((40, 40), steps={"rotate": 40.0})(picture(40, 40)[0], values, generator_of("test", 1))
    assert label.dtype == torch.float32
    assert label[0, 0].isnan()
    assert (label[label.isfinite()] == 2.5).all()
    assert label.isfinite().float().mean() > 0.5


def test_the_smallest_crops_can_be_augmented():
    image, label = picture(1, 1)
    augment = AugmentedCrop((1, 1), steps=ALL)
    assert all(augment(image, label, generator_of("test", i))[0].shape == (3, 1, 1) for i in range(8))


def test_words():
    assert parse_augmentations(["blur", "rotate=3"]) == {"rotate": 3.0, "blur": 0.5}
    assert list(parse_augmentations(["blur", "rotate=3"])) == ["rotate", "blur"]


def test_crops_that_one_class_fills_are_drawn_again():
    image, label = picture(64, 128)
    label[:] = 3
    label[:, 96:] = 1
    shares = [
        [class_share(RandomCrop((32, 32), **limit)(image, label, generator_of("test", i))[1]) for i in range(60)]
        for limit in ({}, {"max_class_share": 0.75})
    ]
    assert sum(share > 0.75 for share in shares[0]) > 40
    assert sum(share > 0.75 for share in shares[1]) < 25  # ten tries, each with a chance of about a sixth
    void = torch.full_like(label, 255)
    limits = {}, {"max_class_share": 0.5}
    crops = [RandomCrop((32, 32), **limit)(image, void, generator_of("test", 5))[0] for limit in limits]
    assert torch.equal(*crops)


def test_the_originals_steps_of_scale():
    crop = RandomCrop((32, 32), (0.7, 2.1), scale_step=0.1)
    factors = {round(crop.factor(i / 1000, 100), 6) for i in range(1000)}
    assert factors == {round(0.7 + step / 10, 6) for step in range(15)}


def test_the_short_side_is_scaled_to_every_length_between():
    crop = RandomCrop((32, 32), short_side=(256, 1026))
    assert {round(crop.factor(i / 10_000, 375) * 375, 6) for i in range(10_000)} == set(range(256, 1027))
    image, label = picture(60, 80)
    half = RandomCrop((64, 64), short_side=(30, 30))(image, label, generator_of("test", 0))[1]
    assert (half != 255).sum() == 30 * 40


@pytest.mark.parametrize(
    "settings", [{"scale_step": 0.0}, {"scale_step": 3.0}, {"short_side": (8, 4)}, {"short_side": (4, 8)}]
)
def test_settings_that_contradict_each_other_are_refused(settings):
    with pytest.raises(ValueError, match=r"scale_step|short_side"):
        RandomCrop((8, 8), (0.5, 2.0), **settings)
