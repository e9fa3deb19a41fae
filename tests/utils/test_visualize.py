"""Colours say what the ids say."""

import numpy as np
import pytest

from segdistill.utils.visualize import colorize, overlay, side_by_side

PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_colorize_takes_colours_from_the_palette(dtype):
    label = np.array([[0, 1, 2], [2, 0, 1]], dtype)
    colors = colorize(label, PALETTE)
    assert colors.dtype == np.uint8
    assert np.array_equal(colors, np.array(PALETTE, np.uint8)[label])


def test_colorize_paints_every_other_id_black():
    assert not colorize(np.array([[3, 254, 255, -1, -3, 1000]]), PALETTE).any()


@pytest.mark.parametrize("label", [np.zeros((2, 2)), np.zeros((1, 2, 2), int)], ids=["float", "batch"])
def test_colorize_refuses_what_is_no_label_map(label):
    with pytest.raises(ValueError, match="label map"):
        colorize(label, PALETTE)


def test_overlay_blends_classes_and_leaves_void_alone():
    image = np.full((1, 3, 3), 100, np.uint8)
    label = np.array([[0, 2, 255]], np.uint8)
    assert np.array_equal(overlay(image, label, PALETTE, alpha=0), image)
    assert np.array_equal(overlay(image, label, PALETTE, alpha=1)[:, :2], colorize(label, PALETTE)[:, :2])
    assert overlay(image, label, PALETTE, alpha=0.25).tolist() == [[[139, 75, 75], [75, 75, 139], [100, 100, 100]]]


def test_overlay_refuses_a_label_of_another_size():
    with pytest.raises(ValueError, match="differ in size"):
        overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 2), np.uint8), PALETTE)


def test_pictures_side_by_side_stand_below_their_names():
    red, blue = (np.full((40, 60, 3), color, np.uint8) for color in (PALETTE[0], PALETTE[2]))
    panel = side_by_side({"alone": red, "distilled": blue})
    assert np.array_equal(panel[-40:], np.concatenate([red, blue], axis=1))
    strip = panel[:-40]
    assert strip[:, :60].any()
    assert strip[:, 60:].any()
