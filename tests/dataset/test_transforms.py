import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from segdistill.dataset.base import generator_of
from segdistill.dataset.sampler import TrainSampler
from segdistill.dataset.transforms import RandomCrop, window


def picture(height, width):
    """A smooth image, and a label of 8x8 blocks."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256]).to(torch.uint8)
    return image, ((rows // 8 + columns // 8) % 11).to(torch.uint8)


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("size", [(32, 48), (90, 50)])
def test_crops_have_the_size_asked_for(scale, size):
    image, label = picture(60, 80)
    for index in range(8):
        crop, ids = RandomCrop(size, scale, mirror=True)(image, label, generator_of("test", 0, 0, index))
        assert (crop.shape, ids.shape, crop.dtype, ids.dtype) == ((3, *size), size, torch.uint8, torch.uint8)


def test_a_sample_is_a_function_of_seed_epoch_and_index():
    image, label = picture(60, 80)
    augment = RandomCrop((32, 32), (0.5, 2.0), mirror=True)
    first = augment(image, label, generator_of("test", 1, 2, 3))[0]
    assert torch.equal(first, augment(image, label, generator_of("test", 1, 2, 3))[0])
    others = [
        augment(image, label, generator_of("test", *counters))[0] for counters in ((0, 2, 3), (1, 0, 3), (1, 2, 0))
    ]
    assert not any(torch.equal(first, other) for other in others)


def test_an_unscaled_crop_is_a_window_of_image_and_label_alike():
    image, label = picture(60, 80)
    stacked = torch.cat([image, label[None]])
    crop, ids = RandomCrop((20, 30))(image, label, generator_of("test", 0, 0, 5))
    found = torch.cat([crop, ids[None]])
    windows = stacked.unfold(1, 20, 1).unfold(2, 30, 1).permute(1, 2, 0, 3, 4)
    assert (windows == found).flatten(2).all(2).any()


def test_cropping_before_resizing_gives_the_picture_of_resizing_before_cropping():
    image, label = picture(64, 96)
    crop, ids = RandomCrop((64, 64), (2.0, 2.0))(image, label, generator_of("test", 0, 0, 1))
    whole = resize(image, [128, 192], antialias=True)
    differences = [
        (whole[:, top : top + 64, left : left + 64].int() - crop.int())[:, 2:-2, 2:-2].abs().max()
        for top in range(0, 65, 2)
        for left in range(0, 129, 2)
    ]
    assert min(differences) <= 1
    large = label.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert any(torch.equal(large[top : top + 64, left : left + 64], ids) for top in range(65) for left in range(129))


@pytest.mark.parametrize("factor", [0.4, 0.9, 1.6])
def test_a_resized_window_is_what_torchvision_makes_of_it(factor):
    image, label = picture(64, 96)
    crop, ids = RandomCrop((200, 200), (factor, factor))(image, label, generator_of("test", 0, 0, 1))
    size = [round(64 * factor), round(96 * factor)]
    assert torch.equal(crop[:, : size[0], : size[1]], resize(image, size, antialias=True))
    nearest = resize(label[None], size, InterpolationMode.NEAREST_EXACT)
    assert torch.equal(ids[: size[0], : size[1]], nearest[0])


def test_an_image_is_never_scaled_to_nothing():
    image, label = picture(4, 6)
    crop, _ = RandomCrop((8, 8), (1 / 16, 1 / 16))(image, label, generator_of("test", 0))
    assert crop.shape == (3, 8, 8)


def test_small_images_are_padded_below_and_right_with_the_fill_and_void():
    image, label = picture(20, 30)
    crop, ids = RandomCrop((32, 40), fill=(1, 2, 3))(image, label, generator_of("test", 0))
    assert torch.equal(crop[:, :20, :30], image)
    assert torch.equal(ids[:20, :30], label)
    assert (crop[:, 20:] == torch.tensor([1, 2, 3]).view(3, 1, 1)).all()
    assert (ids[20:] == 255).all()
    assert (ids[:, 30:] == 255).all()


def test_half_of_the_samples_are_mirrored():
    image, label = picture(16, 16)
    augment = RandomCrop((16, 16), mirror=True)
    mirrored = sum(torch.equal(augment(image, label, generator_of("test", i))[0], image.flip(2)) for i in range(200))
    assert 70 < mirrored < 130


@pytest.mark.parametrize(("size", "scale"), [((20, 30), (1.0, 1.0)), ((48, 64), (0.5, 1.5)), ((60, 80), (0.5, 2.0))])
def test_the_share_of_padding_is_that_of_the_crops(size, scale):
    image, label = picture(*size)
    augment = RandomCrop((48, 64), scale)
    shares = [
        (augment(image, torch.zeros_like(label), generator_of("test", i))[1] == 255).float().mean() for i in range(100)
    ]
    assert augment.padding([size]) == pytest.approx(np.mean(shares), abs=0.03)


def test_a_picture_that_shrinks_to_nothing_keeps_a_pixel():
    crop, _ = RandomCrop((8, 8), (0.01, 0.02))(*picture(20, 30), generator_of("test", 0))
    assert crop.shape == (3, 8, 8)


@pytest.mark.parametrize("factor", [0.01, 0.3, 0.5, 0.99, 1.0, 1.7, 3.0])
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_the_window_lies_inside_the_axis(factor, where):
    part, length = window(50, 64, factor, where)
    assert 0 <= part.start < part.stop <= 50
    assert 0 < length <= 64


def stream(**options):
    return [key for batch in TrainSampler(length=7, batch_size=4, num_steps=9, seed=3, **options) for key in batch]


def test_an_epoch_holds_every_sample_once():
    keys = stream()
    assert [sorted(index for epoch, index in keys if epoch == wanted) for wanted in range(5)] == [list(range(7))] * 5


def test_a_resumed_sampler_continues_the_same_stream():
    assert stream(start_step=4) == stream()[16:]


def test_processes_share_the_global_batches():
    shares = [list(TrainSampler(7, 4, 9, 3, rank=rank, world_size=2)) for rank in range(2)]
    assert [key for parts in zip(*shares, strict=True) for part in parts for key in part] == stream()


def test_a_batch_that_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match="does not divide by 3"):
        TrainSampler(7, 4, 9, 3, world_size=3)


def test_unlabelled_samples_are_a_stream_of_their_own():
    batches = list(TrainSampler(4, 3, 8, 0, unlabelled=(5, 1)))
    assert [len(batch) for batch in batches] == [4] * 8
    labelled = [sample for batch in batches for sample in batch[:3]]
    assert labelled == [sample for batch in TrainSampler(4, 3, 8, 0) for sample in batch]
    unlabelled = [batch[3] for batch in batches]
    assert sorted(unlabelled[:5]) == [(0, index) for index in range(4, 9)]
    assert list(TrainSampler(4, 3, 8, 0, 5, unlabelled=(5, 1))) == batches[5:]
    with pytest.raises(ValueError, match="3 labelled and 1 unlabelled samples does not divide by 3"):
        TrainSampler(4, 3, 8, 0, world_size=3, unlabelled=(5, 1))


def test_streams_of_equal_counters_share_nothing():
    """The draws of a step and the augmentation of a sample may have the same seed and counters."""
    first, other = (torch.rand(8, generator=generator_of(stream, 1, 2, 3)) for stream in ("step", "augmentation"))
    assert not set(first.tolist()) & set(other.tolist())
    assert torch.equal(first, torch.rand(8, generator=generator_of("step", 1, 2, 3)))


@pytest.mark.parametrize(("size", "scale"), [((0, 8), (1, 1)), ((8, 8), (0, 1)), ((8, 8), (2, 1))])
def test_a_crop_that_cannot_be_is_an_error(size, scale):
    with pytest.raises(ValueError, match="a crop needs sides of 1 or more"):
        RandomCrop(size, scale)


def test_a_single_pixel_is_rounded_as_the_pixels_of_larger_crops_are():
    image = torch.tensor([[100, 101], [101, 101]], dtype=torch.uint8).expand(3, 2, 2)
    crop, label = RandomCrop((1, 1), (0.5, 0.5))(image, torch.zeros(2, 2, dtype=torch.uint8), torch.Generator())
    assert crop.flatten().tolist() == [101, 101, 101]
    assert label.tolist() == [[0]]
