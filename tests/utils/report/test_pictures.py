"""Pictures hold every quantity, group and class, and a failure leaves the old file."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from runs import PA, PI

from segdistill.utils.report import compare_groups, pictures
from segdistill.utils.report.drawings import Panel, columns_of
from segdistill.utils.report.pictures import draw_panel, plot_class_deltas, plot_curves
from segdistill.utils.run import PANELS, Run


@pytest.fixture
def figures(monkeypatch):
    """The figures that would have been written."""
    kept = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: kept.append(figure))
    return kept


def rows(scores, **columns):
    """One row a step, 1, 2, ..., with mIoU and any other columns; "__" stands for "/"."""
    columns = {"val/mean_iou": scores, **{name.replace("__", "/"): values for name, values in columns.items()}}
    return [
        {"step": i + 1, "lr": 0.1, "loss": 1.0, "val/pixel_accuracy": 0.5}
        | {key: values[i] for key, values in columns.items()}
        for i in range(len(scores))
    ]


def titles_of(figure):
    return [axes.get_title("left") for axes in figure.axes]


def test_curves_show_mean_iou_in_percent_and_every_loss(figures):
    plot_curves({"run": [rows([0.1, 0.25], loss__cross_entropy=[3, 2], loss__cwd_logits=[1, -1])]}, None)
    first, *_ = figures[0].axes
    assert first.lines[0].get_xydata().tolist() == [[1, 10], [2, 25]]
    assert titles_of(figures[0]) == ["validation mIoU (%)", "cross entropy", "cwd logits"]


def test_curves_show_shares_in_percent_and_what_methods_log_of_themselves(figures):
    own = {"any__thing": [1, 2], "cost__step": [1, 2]}  # costs have a table
    plot_curves({"run": [rows([0.1, 0.2], share__x=[0.25, 0.3], share__y=[0.75, 0.7], **own)]}, None)
    assert titles_of(figures[0])[1:] == ["share of x (%)", "share of y (%)", "any: thing"]
    assert figures[0].axes[1].lines[0].get_ydata().tolist() == [25, 30]


def test_curves_leave_out_the_share_of_a_single_term(figures):
    plot_curves({"run": [rows([0.1, 0.2], share__cross_entropy=[1.0, 1.0])]}, None)
    assert titles_of(figures[0]) == ["validation mIoU (%)"]


def test_curves_smooth_the_losses_but_not_the_scores(figures):
    noise = [float(i % 2) for i in range(200)]
    plot_curves({"run": [rows(noise, loss__cross_entropy=noise)]}, None)
    scores, losses = figures[0].axes
    assert np.ptp(scores.lines[0].get_ydata()) == 100
    faint, average = losses.lines
    assert np.ptp(faint.get_ydata()) == 1
    assert np.ptp(average.get_ydata()) < 0.2


def test_curves_give_the_runs_of_a_group_one_colour_and_one_label(figures):
    plot_curves({group: [rows([0.1, 0.2])] * 3 for group in ("alone", "pi, warm")}, None)
    (axes,) = figures[0].axes
    colors = [line.get_color() for line in axes.lines]
    assert colors[:3] == colors[:1] * 3
    assert len(set(colors)) == 2
    assert sorted(text.get_text() for text in axes.texts) == ["alone", "pi, warm"]
    assert {text.get_color() for text in axes.texts} == set(colors)


def test_curve_labels_stand_apart_within_the_plot_in_the_order_of_their_lines(figures):
    ends = {"a": 0.500, "b": 0.502, "c": 0.501, "d": 0.1}
    plot_curves({name: [rows([0.1, end])] for name, end in ends.items()}, None)
    labels = sorted(figures[0].axes[0].texts, key=lambda text: text.get_position()[1])
    assert [label.get_text() for label in labels] == ["d", "a", "c", "b"]
    heights = [label.get_position()[1] for label in labels]
    assert min(np.diff(heights)) >= pictures.LABEL_GAP - 1e-9
    assert 0 <= heights[0] < heights[-1] <= 1


def test_curves_of_nothing_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_curves({"run": [[{"step": 1, "lr": 0.1}]]}, tmp_path / "curves.png")


def test_class_deltas_are_bars_in_points_and_dots_for_the_seeds(figures, make_run):
    def runs(name, terms, scores):
        return [make_run(f"{name}{seed}", terms, seed, score) for seed, score in enumerate(scores)]

    groups = [("auto", runs("pi", [PI], [0.51, 0.53])), ("auto", runs("pa", [PA], [0.4, 0.4]))]
    plot_class_deltas(compare_groups(runs("alone", [], [0.5, 0.5]), groups), None)
    (axes,) = figures[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["road", "sky"]
    bars = {container.get_label(): [bar.get_width() for bar in container] for container in axes.containers}
    assert bars == {"pi": pytest.approx([2, 0]), "pa": pytest.approx([-10, 0])}
    dots = sorted(x for line in axes.lines if line.get_marker() == "o" for x in line.get_xdata())
    assert dots == pytest.approx([-10, -10, 1, 3])


def test_panel_shows_pictures_and_a_legend(figures):
    cells = [np.full((4, 6, 3), value, np.uint8) for value in (9, 60, 200)]
    draw_panel(Panel([cells] * 2, ["image", "truth", "student"], {"sky": (255, 0, 0), "void": (0, 0, 0)}), None)
    (figure,) = figures
    for axes, expected in zip(figure.axes, cells * 2, strict=True):
        assert np.array_equal(axes.images[0].get_array(), expected)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["image", "truth", "student"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sky", "void"]


def test_panel_draws_images_of_unequal_size_at_one_width(figures):
    sizes = [(40, 60), (60, 30), (20, 90)]
    panel = [[np.zeros((*size, 3), np.uint8)] * 2 for size in sizes]
    draw_panel(Panel(panel, ["image", "truth"], {"sky": (255, 0, 0)}), None)
    (figure,) = figures
    pictures.FigureCanvasAgg(figure).draw()
    boxes = [axes.get_position() for axes in figure.axes[::2]]
    assert [box.width for box in boxes] == pytest.approx([boxes[0].width] * 3, rel=0.02)
    inches = figure.get_size_inches()
    ratios = [box.height * inches[1] / (box.width * inches[0]) for box in boxes]
    assert ratios == pytest.approx([height / width for height, width in sizes], rel=0.02)


def test_panel_refuses_a_row_of_another_length():
    with pytest.raises(ValueError, match="every row needs 2 cells"):
        draw_panel(Panel([[np.zeros((2, 2, 3), np.uint8)]], ["truth", "student"], {}), None)


def test_pictures_are_whole_files_that_replace_the_old_ones(tmp_path):
    path = tmp_path / "curves.png"
    path.write_text("old")
    plot_curves({"run": [rows([0.1, 0.2])]}, path)
    Image.open(path).verify()
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


def test_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    def fail(self, file, **options):
        file.write(b"half")
        raise OSError("disk full")

    path = tmp_path / "curves.png"
    path.write_text("old")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot_curves({"run": [rows([0.1, 0.2])]}, path)
    assert path.read_text() == "old"


def test_the_predictions_of_a_run_are_columns_of_one_width(tmp_path):
    rows = [[np.full((4, width, 3), value, np.uint8) for value in (9, 60, 200)] for width in (5, 8)]
    Run.save_panels(SimpleNamespace(writes=True, folder=tmp_path), rows)
    (columns,) = columns_of(tmp_path / PANELS, ["image", "truth", "student"]).rows
    for value, column in zip((9, 60, 200), columns, strict=True):
        assert column.shape == (8, 8, 3)
        assert (column[:4, :5] == value).all()
        assert (column[:4, 5:] == 0).all()
        assert (column[4:] == value).all()
