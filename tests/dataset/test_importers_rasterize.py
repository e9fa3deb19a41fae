"""Shapes become the pixels whose centres they hold."""

import numpy as np
import pytest
from exports import inside

from segdistill.dataset.importers.rasterize import box, ellipse, polygon
from segdistill.dataset.importers.runs import brush_values, coco_counts, coco_mask, decode_runs

SIZE = (40, 50)


def fill(*rings, size=SIZE):
    mask, top, left = polygon([np.array(ring, float) for ring in rings], size)
    whole = np.zeros(size, bool)
    whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return whole


def drawn(region, size=SIZE):
    whole = np.zeros(size, bool)
    whole[region.top : region.top + region.mask.shape[0], region.left : region.left + region.mask.shape[1]] = (
        region.mask
    )
    return whole


def star(rng, corners=9, reach=35.0):
    """A simple polygon around a random point, mostly in the image."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = rng.uniform(2, reach, corners)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1) + rng.uniform((5, 5), (45, 35))


@pytest.mark.parametrize("seed", range(40))
def test_polygons_are_the_centres_that_matplotlib_finds_in_them(seed):
    # Corners are real numbers: no centre lies on an edge.
    points = star(np.random.default_rng(seed))
    assert (fill(points) == inside(points, SIZE)).all()
    assert (fill(points[::-1]) == fill(points)).all(), "the direction does not matter"


@pytest.mark.parametrize("seed", range(10))
def test_a_ring_in_a_ring_is_a_hole(seed):
    points = star(np.random.default_rng(seed), reach=20)
    hole = points.mean(0) + (points - points.mean(0)) * 0.4
    expected = inside(points, SIZE) ^ inside(hole, SIZE)
    assert (fill(points, hole) == expected).all()
    assert (fill(points, hole[::-1]) == expected).all()
    assert not expected[inside(hole, SIZE) & inside(points, SIZE)].any()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("step", [0.5, 1.0, 3.7])  # half pixels and whole ones: corners and edges lie on centres
def test_triangles_that_share_edges_cover_every_pixel_once(seed, step):
    rng = np.random.default_rng(seed)
    size = (30, 30)
    xs = np.arange(9) * step
    grid = np.stack(np.meshgrid(xs, xs), -1) + 1.0
    grid[1:-1, 1:-1] += np.round(rng.uniform(-0.3, 0.3, (7, 7, 2)) * step * 4) / 4
    total = np.zeros(size, int)
    for row in range(8):
        for column in range(8):
            a, b = grid[row, column], grid[row, column + 1]
            c, d = grid[row + 1, column + 1], grid[row + 1, column]
            total += fill([a, b, c], size=size)
            total += fill([d, c, a], size=size)
    outline = [(1, 1), (1 + 8 * step, 1), (1 + 8 * step, 1 + 8 * step), (1, 1 + 8 * step)]
    assert (total == fill(outline, size=size)).all()


def test_centres_on_an_edge_belong_to_the_region_at_the_right_and_below():
    # Edges through the centres of columns 3 and 7 and of rows 2 and 5.
    mask = fill([(3.5, 2.5), (7.5, 2.5), (7.5, 5.5), (3.5, 5.5)])
    rows, columns = np.nonzero(mask)
    assert ({*rows}, {*columns}) == ({2, 3, 4}, {3, 4, 5, 6})
    below, above = fill([(0, 0), (8, 8), (0, 8)]), fill([(0, 0), (8, 0), (8, 8)])
    assert above[np.arange(8), np.arange(8)].all()
    assert not below[np.arange(8), np.arange(8)].any()


def test_a_box_is_the_pixels_between_its_edges():
    expected = np.zeros(SIZE, bool)
    expected[3:7, 2:5] = True
    assert (fill(box(2, 3, 5, 7)) == expected).all()


@pytest.mark.parametrize(("left", "columns"), [(3.0, [3]), (3.3, [3]), (3.5, [3]), (3.51, [4])])
def test_a_shape_one_pixel_wide_is_one_pixel_wide(left, columns):
    mask = fill([(left, 2), (left + 1, 2), (left + 1, 12), (left, 12)])
    assert np.unique(np.nonzero(mask)[1]).tolist() == columns
    assert mask.sum() == 10
    slanted = fill([(left, 0), (left + 1, 0), (left + 11, 20), (left + 10, 20)])
    assert (slanted[:20].sum(1) == 1).all()


def test_what_lies_outside_the_image_is_cut_off():
    points = np.array([(-30.2, -20.1), (25.3, -8.7), (90.6, 33.1), (12.9, 77.7)])
    assert (fill(points) == inside(points, SIZE)).all()
    assert not fill(points + 1000).any()
    assert not fill(points - 1000).any()
    assert fill([(-1e300, -1e300), (1e300, -1e300), (1e300, 1e300), (-1e300, 1e300)]).all()


def test_ellipses_and_turned_boxes_are_what_their_equations_say():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    assert (
        drawn(ellipse(20.2, 15.1, 9.3, 4.7, SIZE)) == (((x - 20.2) / 9.3) ** 2 + ((y - 15.1) / 4.7) ** 2 <= 1)
    ).all()
    assert (drawn(ellipse(20.2, 15.1, 9.3, 4.7, SIZE, 90)) == drawn(ellipse(20.2, 15.1, 4.7, 9.3, SIZE))).all()
    # A quarter turn clockwise takes what is at the right to the bottom.
    assert drawn(ellipse(20, 15, 9, 2, SIZE, 45))[20, 25]
    assert not drawn(ellipse(20, 15, 9, 2, SIZE, 45))[10, 25]
    assert (fill(box(10, 10, 30, 14, 90)) == fill(box(18, 2, 22, 22))).all()
    assert (fill(box(10, 10, 30, 14, 90, (10, 10))) == fill(box(6, 10, 10, 30))).all()


def test_runs_begin_with_zeros():
    assert decode_runs([2, 3, 1], 8).tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    for wrong in ([2, 7], [3, -1, 4]):
        with pytest.raises(ValueError, match="runs of"):
            decode_runs(wrong, 8)


def test_coco_runs_go_down_the_columns():
    mask = coco_mask({"size": [2, 3], "counts": [1, 2, 3]})
    assert mask.tolist() == [[False, True, False], [True, False, False]]
    # From the fourth on differences: 5 is 1 + 4, 188 is 40 + 148; 40 and 148 take two characters.
    assert coco_counts("61X14d4") == [6, 1, 40, 5, 188]
    assert coco_counts("62X1O") == [6, 2, 40, 1]
    with pytest.raises(ValueError, match="within a number"):
        coco_counts("61X")


@pytest.mark.parametrize("seed", range(5))
def test_coco_runs_are_those_of_pycocotools(seed):
    reference = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(seed).random((37, 83)) > (0.02, 0.5, 0.98, 0, 1)[seed]
    rle = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert (coco_mask({"size": rle["size"], "counts": rle["counts"].decode()}) == mask).all()


def test_a_brush_mask_that_does_not_fit_is_an_error():
    for data in (b"", bytes([0, 0, 0, 8]), bytes([0, 0, 0, 4, 56, 0, 0, 0, 255])):
        with pytest.raises(ValueError, match="brush mask"):
            brush_values(data, 4)
