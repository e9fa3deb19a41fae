"""Predictors: logits at the images' size, whatever is done on the way."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segdistill.network import SegmentationNetwork, build_network, resize
from segdistill.network.base import Feature
from segdistill.utils.predict import Predictor, class_ids, multi_scale, resized, sliding, whole
from segdistill.utils.protocol import WHOLE_IMAGES, build_predictor

# The tile is square, wide, narrow (the originals' stride, made for its height, left gaps) and greater than the image.
TILES = ((16, 16), (16, 40), (48, 16), (64, 96))


class Convolutions(SegmentationNetwork):
    """Stride 4; large enough a view that borders and neighbours matter."""

    num_classes = 5
    features = {"logits": Feature(5, 4)}

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(8, 5, 5, stride=2, padding=2)
        )

    def maps(self, images, wanted):
        return {"logits": self.layers(images)}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Convolutions().eval()


# A network that sees single pixels: whatever the way, the answer of a pixel is the same.
pixelwise = Predictor(lambda images: torch.cat([images, -images.sum(1, keepdim=True)], 1))


def test_resized_shows_another_size_and_answers_at_the_images_own(network):
    images = torch.randn(2, 3, 48, 80)
    logits = resized(whole(network), (24, 40))(images)
    shown = F.interpolate(images, size=(24, 40), mode="bilinear", align_corners=False, antialias=False)
    expected = F.interpolate(network(shown).logits, size=(48, 80), mode="bilinear", align_corners=True)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(resized(whole(network), 0.5)(images), logits)
    assert not logits.requires_grad


def test_resized_to_the_images_own_size_is_the_predictor_itself(network):
    images = torch.randn(1, 3, 48, 80)
    torch.testing.assert_close(resized(whole(network), (48, 80))(images), whole(network)(images))


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("overlap", [0, 1 / 3, (0.5, 0.25)])
def test_tiles_cover_every_pixel(tile, overlap):
    images = torch.randn(2, 3, 45, 70)
    logits = sliding(pixelwise, tile, overlap, batch_size=3)(images)
    torch.testing.assert_close(logits, pixelwise(images))


@pytest.mark.parametrize("tile", TILES)
def test_batches_of_tiles_answer_as_one_at_a_time(network, tile):
    images = torch.randn(2, 3, 45, 70)
    one, many = (sliding(whole(network), tile, batch_size=size)(images) for size in (1, 7))
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-5)


def test_where_tiles_overlap_the_mean_of_their_logits_counts():
    marks = iter((1.0, 3.0))
    predictor = Predictor(lambda tiles: torch.full((1, 2, *tiles.shape[2:]), next(marks)))
    logits = sliding(predictor, (4, 6), overlap=0.5, batch_size=1)(torch.zeros(1, 3, 4, 9))
    assert logits[0, 0, 0].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_overlap_is_less_than_a_tile():
    with pytest.raises(ValueError, match="less than 1"):
        sliding(pixelwise, (8, 8), overlap=1.0)


def test_one_scale_is_the_predictor_itself_but_for_a_constant(network):
    images = torch.randn(1, 3, 48, 80)
    probabilities = multi_scale(whole(network))(images).softmax(1)
    torch.testing.assert_close(probabilities, whole(network)(images).softmax(1))


def test_scales_and_mirrored_views_count_alike(network):
    images = torch.randn(2, 3, 48, 80)
    views = []
    for scale in (0.5, 1, 1.5):
        shown = resize(images, (int(48 * scale), int(80 * scale)))
        views += [network(shown).logits, network(shown.flip(3)).logits.flip(3)]
    expected = torch.stack([resize(view, (48, 80)).softmax(1) for view in views]).mean(0)
    torch.testing.assert_close(multi_scale(whole(network), (0.5, 1, 1.5), flip=True)(images).softmax(1), expected)


def test_predictors_compose(network):
    images = torch.randn(1, 3, 48, 80)
    predictor = resized(multi_scale(sliding(whole(network), (32, 32)), (1, 1.5), flip=True), (40, 64))
    logits = predictor(images)
    assert logits.shape == (1, 5, 48, 80)
    assert logits.isfinite().all()
    mirrored = predictor(images.flip(3)).flip(3)
    torch.testing.assert_close(logits, mirrored, rtol=1e-3, atol=1e-3)


def test_relative_depth_is_not_predicted_in_tiles():
    tiles = WHOLE_IMAGES | {"predict": "sliding", "tile": [32, 32], "overlap": 0}
    metric, relative = (build_network("espnet_c", 1, p=1, q=1, depth=(1.0, 100.0, metric)) for metric in (True, False))
    assert build_predictor(metric, tiles, None, feature="depth")(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 64, 64)
    with pytest.raises(ValueError, match=r"espnet_c answers in relative depth.* --predict whole"):
        build_predictor(relative, tiles, None, feature="depth")


@pytest.mark.parametrize("size", [(64, 96), (60, 101), (9, 13), (8, 12), (5, 7), (5, 200), (8, 200)])
@pytest.mark.parametrize("smooth", [True, False])
def test_class_ids_are_the_argmax_of_the_logits_at_full_size(size, smooth):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, 8, 12, generator=generator)
    if smooth:
        logits = resize(logits[:, :, :2, :3], (8, 12)).contiguous()
    full = resize(logits, size)
    ids = class_ids(logits, size)
    assert (ids.dtype, ids.shape) == (torch.uint8, (2, *size))
    # The chosen class has the highest logit, so at most an exact tie tells the two apart.
    assert torch.equal(full.gather(1, ids[:, None].long())[:, 0], full.amax(1))


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1)])
def test_class_ids_of_a_single_row_or_column(shape):
    logits = torch.randn(1, 3, *shape)
    assert torch.equal(class_ids(logits, (6, 12)), resize(logits, (6, 12)).argmax(1).to(torch.uint8))


def test_a_class_that_is_best_at_no_corner_is_found_in_between():
    logits = torch.tensor([[10.0, 0.0], [0.0, 10.0], [6.0, 6.0]]).view(1, 3, 1, 2).expand(1, 3, 2, 2)
    assert class_ids(logits, (2, 5))[0, 0].tolist() == [0, 0, 2, 1, 1]
