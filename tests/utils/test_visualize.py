"""Colours say what the ids say, pictures hold every quantity and class, and a failure leaves the old file."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from segdistill.utils import visualize
from segdistill.utils.visualize import colorize, draw_panel, overlay, plot_curves

PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


@pytest.fixture
def figures(monkeypatch):
    """The figures that would have been written."""
    kept = []
    monkeypatch.setattr(visualize, "_save", lambda figure, path: kept.append(figure))
    return kept


def rows(scores, **terms):
    """One row a step, 1, 2, ..., with mIoU and any other columns."""
    columns = {"val/mean_iou": scores, **{f"loss/{name}": values for name, values in terms.items()}}
    return [
        {"step": i + 1, "lr": 0.1} | {key: values[i] for key, values in columns.items()} for i in range(len(scores))
    ]


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


def test_curves_show_mean_iou_in_percent_and_every_term(figures):
    plot_curves({"run": rows([0.1, 0.25], cross_entropy=[3, 2], pixel_wise=[1, -1])}, None)
    first, *others = figures[0].axes
    assert first.lines[0].get_xydata().tolist() == [[1, 10], [2, 25]]
    assert [axes.get_title("left") for axes in others] == ["cross entropy", "pixel wise"]


def test_curves_smooth_the_losses_but_not_the_scores(figures):
    noise = [float(i % 2) for i in range(200)]
    plot_curves({"run": rows(noise, cross_entropy=noise)}, None)
    scores, losses = figures[0].axes
    assert np.ptp(scores.lines[0].get_ydata()) == 100
    faint, average = losses.lines
    assert np.ptp(faint.get_ydata()) == 1
    assert np.ptp(average.get_ydata()) < 0.2


def test_curves_give_the_seeds_of_a_side_one_colour_and_one_label(figures):
    runs = {f"{side}, seed {seed}": rows([0.1, 0.2]) for side in ("alone", "distilled") for seed in range(3)}
    plot_curves(runs, None)
    (axes,) = figures[0].axes
    colors = [line.get_color() for line in axes.lines]
    assert len(set(colors)) == 2
    assert len(set(colors[:3])) == 1
    assert sorted(text.get_text() for text in axes.texts) == ["alone", "distilled"]
    assert {text.get_color() for text in axes.texts} == set(colors)


def test_curve_labels_stand_apart_in_the_order_of_their_lines(figures):
    ends = {"a": 0.500, "b": 0.502, "c": 0.501, "d": 0.1}
    plot_curves({name: rows([0.1, end]) for name, end in ends.items()}, None)
    labels = sorted(figures[0].axes[0].texts, key=lambda text: text.get_position()[1])
    assert [label.get_text() for label in labels] == ["d", "a", "c", "b"]
    heights = [label.get_position()[1] for label in labels]
    assert min(np.diff(heights)) >= visualize.LABEL_GAP - 1e-9


def test_curves_of_nothing_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_curves({"run": [{"step": 1, "lr": 0.1}]}, tmp_path / "curves.png")


def test_panel_shows_a_picture_a_cell_and_names_the_classes_present(figures):
    image = np.full((4, 6, 3), 9, np.uint8)
    truth, prediction = np.zeros((4, 6), np.uint8), np.full((4, 6), 2)
    truth[0] = 255
    draw_panel([[image, truth, prediction]] * 2, ["image", "truth", "student"], None, ("sky", "road", "car"), PALETTE)
    (figure,) = figures
    shown = [axes.images[0].get_array() for axes in figure.axes]
    for cell, expected in zip(shown, [image, colorize(truth, PALETTE), colorize(prediction, PALETTE)] * 2, strict=True):
        assert np.array_equal(cell, expected)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["image", "truth", "student"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sky", "car", "void"]


def test_panel_refuses_a_row_of_another_length_and_ids_without_colours(tmp_path):
    label = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="every row needs 2 cells"):
        draw_panel([[label]], ["truth", "student"], tmp_path / "panel.png", palette=PALETTE)
    with pytest.raises(ValueError, match="palette"):
        draw_panel([[label]], ["truth"], tmp_path / "panel.png")


def test_pictures_are_whole_files_that_replace_the_old_ones(tmp_path):
    path = tmp_path / "curves.png"
    path.write_text("old")
    plot_curves({"run": rows([0.1, 0.2])}, path)
    Image.open(path).verify()
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


def test_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    def fail(self, file, **options):
        file.write_bytes(b"half")
        raise OSError("disk full")

    path = tmp_path / "curves.png"
    path.write_text("old")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot_curves({"run": rows([0.1, 0.2])}, path)
    assert path.read_text() == "old"
