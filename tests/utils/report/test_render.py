"""The figures that people believe: the rows that count, fair pairs only, no conclusion beyond the spread."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from scipy import stats

from segdistill.dataset import build_dataset
from segdistill.utils import report
from segdistill.utils.options import parse_options
from segdistill.utils.report import iou_table, main, paired_table, read_metrics, write_paired_report, write_run_report
from segdistill.utils.run import jsonable


def evaluation(mean_iou=0.5, **changes):
    return {
        "checkpoint": "best.pth",
        "dataset": "camvid",
        "split": "test",
        "num_images": 2,
        "count_void": False,
        "mean_iou": mean_iou,
        "pixel_accuracy": 0.8,
        "class_accuracy": 0.6,
        "classes": ["road", "sky"],
        "iou": [mean_iou, None],
        "accuracy": [0.6, None],
        "parameters": 1_234_567,
    } | changes


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def make_run(tiny, tmp_path):
    """Makes a finished and evaluated run's folder; its weights are those of the tiny teacher."""

    def make(name, *flags, seed=0, mean_iou=0.5):
        folder = tmp_path / name
        folder.mkdir()
        options = [
            "--network",
            "espnet_c",
            "--dataset",
            "camvid",
            "--data-dir",
            str(tiny / "camvid"),
            "--num-steps",
            "20",
        ]
        teacher = ["--T_ckpt_path", str(tiny / "teacher.pth")] if flags else []
        options = jsonable(vars(parse_options([*options, "--seed", str(seed), *flags, *teacher])))
        (folder / "options.json").write_text(json.dumps(options))
        (folder / "environment.json").write_text(json.dumps({"date": f"day {seed}", "torch": "2.12.0"}))
        rows = [{"step": step, "loss/cross_entropy": 1 / step, "lr": 0.1} for step in (10, 20)]
        rows.append({"step": 20, "val/mean_iou": mean_iou, "val/pixel_accuracy": 0.8})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        shutil.copy(tiny / "teacher.pth", folder / "best.pth")
        figures = evaluation(mean_iou, checkpoint=f"elsewhere/{name}/best.pth", sha256=sha256(folder / "best.pth"))
        (folder / "evaluation.json").write_text(json.dumps(figures))
        if flags:
            card = {"file": "teacher.pth", "sha256": sha256(tiny / "teacher.pth"), "mean_iou": 0.9, "num_images": 2}
            (folder / "teacher.json").write_text(json.dumps(card))
        return folder

    return make


@pytest.fixture
def pair(make_run):
    return make_run("alone"), make_run("distilled", "--pi", mean_iou=0.6)


def write_lines(tmp_path, *lines, end="\n"):
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + end)


# ------------------------------------------------------------------------------------------------------- metrics


def test_metrics_of_a_step_are_merged_and_the_last_value_counts(tmp_path):
    rows = [{"step": 20, "loss": 3.0}, {"step": 40, "loss": 2.0}, {"step": 40, "val/mean_iou": 0.1}]
    resumed = [{"step": 40, "loss": 2.5}, {"step": 40, "val/mean_iou": 0.2}, {"step": 60, "loss": 1.0}]
    write_lines(tmp_path, *map(json.dumps, rows + resumed))
    expected = [{"step": 20, "loss": 3.0}, {"step": 40, "loss": 2.5, "val/mean_iou": 0.2}, {"step": 60, "loss": 1.0}]
    assert read_metrics(tmp_path) == expected


@pytest.mark.parametrize("cut", range(1, 24))
def test_metrics_survive_a_kill_at_any_byte_and_the_resumption(tmp_path, cut):
    half = json.dumps({"step": 40, "loss": 2.0})[:cut]
    write_lines(tmp_path, '{"step": 20, "loss": 3.0}', half, end="")
    assert read_metrics(tmp_path) == [{"step": 20, "loss": 3.0}]
    write_lines(tmp_path, '{"step": 20, "loss": 3.0}', half + '{"step": 30, "loss": 4.0}', '{"step": 40, "loss": 5.0}')
    assert [row["loss"] for row in read_metrics(tmp_path)] == [3.0, 4.0, 5.0]


def test_damage_before_the_last_line_is_an_error_that_names_it(tmp_path):
    write_lines(tmp_path, '{"step": 20, "loss": 3.0}', "garbage", '{"step": 40, "loss": 2.0}')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2 .*garbage"):
        read_metrics(tmp_path)


# -------------------------------------------------------------------------------------------------------- tables


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]


def test_iou_table_has_a_row_a_class_a_column_a_run_and_a_dash_for_an_absent_class():
    table = cells(iou_table({"teacher": evaluation(0.61383), "student": evaluation(0.5)}))
    assert table[0] == ["IoU (%)", "teacher", "student"]
    assert table[2] == ["road", "61.38", "50.00"]
    assert table[3] == ["sky", "-", "-"]
    assert table[4] == ["**mIoU**", "61.38", "50.00"]
    assert table[-1] == ["parameters", "1.23 M", "1.23 M"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("split", "val"), ("dataset", "scenes"), ("num_images", 3), ("count_void", True), ("classes", ["sky", "road"])],
)
def test_evaluations_of_different_subjects_are_not_put_side_by_side(key, value):
    with pytest.raises(ValueError, match=key):
        iou_table({"a": evaluation(), "b": evaluation(**{key: value})})
    with pytest.raises(ValueError, match=key):
        paired_table({0: evaluation()}, {0: evaluation(**{key: value})})


def test_paired_table_gives_the_spread_of_the_deltas_not_of_the_sides():
    baseline = {seed: evaluation(x) for seed, x in enumerate([0.40, 0.50, 0.60])}
    distilled = {seed: evaluation(x) for seed, x in enumerate([0.41, 0.52, 0.63])}
    text = paired_table(baseline, distilled)
    assert cells(text)[2:] == [
        ["0", "40.00", "41.00", "+1.00"],
        ["1", "50.00", "52.00", "+2.00"],
        ["2", "60.00", "63.00", "+3.00"],
        ["mean", "50.00", "52.00", "+2.00"],
        ["std", "10.00", "11.00", "1.00"],
    ]
    assert "n = 3" in text


def test_one_seed_has_no_spread_and_allows_no_conclusion():
    text = paired_table({7: evaluation(0.5)}, {7: evaluation(0.6)})
    assert cells(text)[-1] == ["std", "-", "-", "-"]
    assert "nothing follows" in text
    assert "better" not in text


def test_delta_within_its_spread_is_not_distinguishable_from_zero():
    baseline = {seed: evaluation(0.5) for seed in range(3)}
    text = paired_table(baseline, {seed: evaluation(0.5 + delta) for seed, delta in enumerate([0.03, -0.01, 0.01])})
    assert "not distinguishable from zero at this n" in text


@pytest.mark.parametrize(("sign", "word"), [(1, "better"), (-1, "worse")])
def test_delta_beyond_its_spread_has_a_direction(sign, word):
    baseline = {seed: evaluation(0.5) for seed in range(3)}
    distilled = {seed: evaluation(0.5 + sign * delta) for seed, delta in enumerate([0.030, 0.031, 0.029])}
    assert word in paired_table(baseline, distilled)


def test_conclusion_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 8) * 10:
        deltas = rng.normal(0.01, 0.01, n)
        significant = stats.ttest_1samp(deltas, 0).pvalue < 0.05
        assert ("not distinguishable" in report.conclusion(deltas.tolist())) == (not significant)


def test_seed_without_partner_is_an_error():
    with pytest.raises(ValueError, match=r"\[0, 1\], distilled \[0\]"):
        paired_table({0: evaluation(), 1: evaluation()}, {0: evaluation()})


# ---------------------------------------------------------------------------------------------- fair comparison


def compare(alone, distilled, tmp_path, teacher=None, **options):
    return write_paired_report(alone, distilled, teacher, tmp_path / "report", **options)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_steps": 10},
        {"batch_size": 4},
        {"input_size": [64, 64]},
        {"lr_g": 0.1},
        {"optimizer": "adam"},
        {"random_mirror": True},
        {"q": 3},
        {"val_every": 5},
        {"S_ckpt_path": "pretrained.pth"},
        {"an_option_of_later_versions": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_pair_that_differs_in_more_than_distillation_is_refused(pair, tmp_path, changes):
    change(pair[1] / "options.json", **changes)
    with pytest.raises(ValueError, match=next(iter(changes))):
        compare(pair[:1], pair[1:], tmp_path)


def test_distillation_and_bookkeeping_may_differ_within_a_pair(pair, tmp_path):
    free = {
        "lambda_pi": 3.0,
        "pi_temperature": 2.0,
        "device": "cpu",
        "num_workers": 9,
        "save_name": "x",
        "log_every": 1,
    }
    change(pair[1] / "options.json", **free)
    assert "+10.00" in compare(pair[:1], pair[1:], tmp_path)


def test_distillation_may_not_differ_from_seed_to_seed(make_run, tmp_path):
    alone = [make_run(f"alone{seed}", seed=seed) for seed in (0, 1)]
    distilled = [make_run("distilled0", "--pi"), make_run("distilled1", "--pi", "--lambda-pi", "1", seed=1)]
    with pytest.raises(ValueError, match="lambda_pi"):
        compare(alone, distilled, tmp_path)


def test_runs_on_the_wrong_side_are_refused(pair, tmp_path):
    with pytest.raises(ValueError, match="no student alone"):
        compare(pair[1:], pair[1:], tmp_path)
    with pytest.raises(ValueError, match="no distilled student"):
        compare(pair[:1], pair[:1], tmp_path)


def test_seed_given_twice_is_refused(pair, make_run, tmp_path):
    with pytest.raises(ValueError, match="a seed occurs twice"):
        compare([pair[0], make_run("again")], pair[1:], tmp_path)


def test_unfinished_run_is_refused(pair, tmp_path):
    write_lines(pair[1], '{"step": 10, "loss": 3.0}')
    with pytest.raises(ValueError, match=r"step 10 of 20.*--resume"):
        compare(pair[:1], pair[1:], tmp_path)


def test_evaluation_of_a_checkpoint_that_has_changed_is_refused(pair, tmp_path):
    with (pair[1] / "best.pth").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="no evaluation of its present checkpoint"):
        compare(pair[:1], pair[1:], tmp_path)


def test_best_weights_are_not_compared_with_last_ones(pair, tmp_path):
    (pair[1] / "best.pth").rename(pair[1] / "last.pth")
    change(pair[1] / "evaluation.json", checkpoint="last.pth")
    with pytest.raises(ValueError, match=r"best\.pth and last\.pth"):
        compare(pair[:1], pair[1:], tmp_path)


def test_teacher_that_taught_nobody_is_refused(pair, tmp_path):
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"need one teacher.*teacher\.pth.*other\.pth"):
        compare(pair[:1], pair[1:], tmp_path, tmp_path / "other.pth")


def test_other_environment_is_noted(pair, tmp_path):
    assert "NOTE" not in compare(pair[:1], pair[1:], tmp_path)
    change(pair[1] / "environment.json", torch="2.13.1")
    text = compare(pair[:1], pair[1:], tmp_path)
    assert "torch: 2.12.0 and 2.13.1" in text
    assert text in (tmp_path / "report" / "report.md").read_text()


def test_selection_on_the_evaluated_images_is_noted(pair, tmp_path):
    assert "chosen on these images" not in compare(pair[:1], pair[1:], tmp_path)
    for run in pair:
        change(run / "evaluation.json", split="val")
    assert "chosen on these images" in compare(pair[:1], pair[1:], tmp_path)


# ------------------------------------------------------------------------------------------------------- reports


def test_report_comes_with_its_pictures_and_prints_the_table(pair, tiny, tmp_path, capsys):
    output = tmp_path / "report"
    arguments = ["--alone", pair[0], "--distilled", pair[1], "--teacher", tiny / "teacher.pth", "--output", output]
    main([str(argument) for argument in arguments])
    assert sorted(file.name for file in output.iterdir()) == ["curves.png", "panel.png", "report.md"]
    text = (output / "report.md").read_text()
    assert "+10.00" in capsys.readouterr().out
    assert "![" in text
    assert "| IoU (%)" in text
    assert "teacher |" not in text  # a bare checkpoint has no figures


def test_teacher_that_is_a_run_has_a_column(pair, make_run, tmp_path):
    compare(pair[:1], pair[1:], tmp_path, make_run("teacher", mean_iou=0.9))
    header = next(line for line in (tmp_path / "report" / "report.md").read_text().splitlines() if "| IoU (%)" in line)
    assert cells(header)[0] == ["IoU (%)", "teacher", "alone, seed 0", "distilled, seed 0"]


def test_panel_shows_what_the_checkpoints_predict_on_the_evaluated_split(pair, tiny, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(report, "draw_panel", lambda rows, titles, *_: drawn.update(rows=rows, titles=titles))
    compare(pair[:1], pair[1:], tmp_path, tiny / "teacher.pth", num_images=5)
    assert drawn["titles"] == ["image", "truth", "teacher", "student alone", "distilled"]
    samples = build_dataset("camvid", tiny / "camvid", "test")
    assert len(drawn["rows"]) == len(samples)
    for (image, truth, *predictions), sample in zip(drawn["rows"], samples, strict=False):
        assert np.array_equal(image, sample.image.permute(1, 2, 0))
        assert np.array_equal(truth, sample.label)
        for prediction in predictions:  # the tiny teacher drew these labels, and all three files hold it
            assert np.array_equal(prediction[truth != 255], truth[truth != 255])


def test_run_report_shows_scores_and_the_settings_that_mattered(pair):
    for run in pair:
        write_run_report(run)
    alone, distilled = ((run / "report.md").read_text() for run in pair)
    assert "lambda_pi" in distilled
    assert "lambda_pi" not in alone
    assert "lambda_pa" not in distilled
    assert "backbone" not in alone
    assert "Best validation mIoU: 60.00, at step 20." in distilled
    assert "90.00 mIoU on 2 validation images" in distilled
    assert (pair[0] / "curves.png").is_file()


def test_run_report_leaves_out_figures_of_weights_that_have_changed(pair):
    write_run_report(pair[0])
    assert "| road" in (pair[0] / "report.md").read_text()
    (pair[0] / "best.pth").write_bytes(b"continued")
    write_run_report(pair[0])
    assert "| road" not in (pair[0] / "report.md").read_text()


def test_folder_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"options\.json.*not the folder of a run"):
        write_run_report(tmp_path)
