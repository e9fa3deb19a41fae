"""The figures that people read: right cells, sentences no bolder than the data, whole reports."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from runs import PA, PI, PROTOCOL, cells, change, evaluation, write_lines

from segdistill.dataset import build_dataset
from segdistill.utils.report import compare_groups, pictures, score_table, write_comparison, write_run_report
from segdistill.utils.report.__main__ import main
from segdistill.utils.report.render import class_table, cost_table, paired_table
from segdistill.utils.report.sections import markdown
from segdistill.utils.report.sentences import caption_of, caveat_sentences, conclusions, in_words
from segdistill.utils.visualize import colorize

pytestmark = pytest.mark.curves


@pytest.fixture
def ablation(make_run):
    """Makes the comparison of alone, pi and pi + pa, by their scores seed by seed."""

    def make(alone, pi, both, **options):
        def runs(name, terms, scores):
            return [make_run(f"{name}{seed}", terms, seed, score) for seed, score in enumerate(scores)]

        groups = [("auto", runs("pi", [PI], pi)), ("auto", runs("both", [PI, PA], both))]
        return compare_groups(runs("alone", [], alone), groups, **options)

    return make


# -------------------------------------------------------------------------------------------------------- tables

STEPS = (("alone", [], 40), ("pi", [PI], 25))


def test_score_table_has_a_row_a_class_a_column_an_evaluation_and_a_dash_for_an_absent_class():
    table = cells(score_table({"teacher": evaluation(0.61383), "student": evaluation(0.5)}))
    assert table[0] == ["IoU (%)", "teacher", "student"]
    assert table[2] == ["road", "61.38", "50.00"]
    assert table[3] == ["sky", "-", "-"]
    assert table[4] == ["**mIoU**", "61.38", "50.00"]
    assert table[-1] == ["parameters", "1.23 M", "1.23 M"]


def test_score_table_says_how_it_was_counted_and_has_categories_where_there_are_some():
    tiles = PROTOCOL | {"predict": "sliding", "tile": [512, 769], "overlap": 0.25, "input_size": 0.5}
    table = score_table({"a": evaluation(protocol=tiles, category_iou={"flat": 0.75}, mean_category_iou=0.75)})
    assert ["category flat", "75.00"] in cells(table)
    assert ["**category mIoU**", "75.00"] in cells(table)
    assert "tiles of 512x769, 25 % overlap; shown at 0.5 x." in table
    assert table.endswith("in no mean: sky.")


@pytest.mark.parametrize("key", ["dataset", "images", "classes", "protocol"])
def test_score_table_refuses_evaluations_of_different_subjects(key):
    with pytest.raises(ValueError, match=key):
        score_table({"a": evaluation(), "b": evaluation(**{key: "another"})})


def test_paired_table_has_a_row_a_group_with_the_spread_of_its_deltas(ablation, make_run):
    teacher = make_run("teacher", mean_iou=0.9)
    comparison = ablation([0.40, 0.50, 0.60], [0.41, 0.52, 0.63], [0.30, 0.40, 0.50], teacher=teacher)
    header, _, *table = cells(markdown([paired_table(comparison)]))
    assert header == ["mIoU (%)", "mean", "std", "delta", "steps", "seconds", "seed 0", "seed 1", "seed 2"]
    assert table == [
        ["alone", "50.00", "10.00", "-", "20", "-", "40.00", "50.00", "60.00"],
        ["pi", "52.00", "11.00", "+2.00 ± 2.48", "20", "-", "41.00", "52.00", "63.00"],
        ["pi + pa", "40.00", "10.00", "-10.00 ± 0.00", "20", "-", "30.00", "40.00", "50.00"],
        ["teacher", "90.00", *["-"] * 7],
    ]


def test_groups_of_other_steps_say_how_many_and_how_long_and_whether_that_is_unequal(make_run):
    sides = [[make_run(f"{name}{i}", terms, i, num_steps=n) for i in (0, 1)] for name, terms, n in STEPS]
    for (run, other), seconds in zip(sides, (0.1, 0.2), strict=True):
        for each, factor in ((run, 0.9), (other, 1.1)):
            steps = json.loads((each / "options.json").read_text())["num_steps"]
            write_lines(each, json.dumps({"step": steps, "cost/step": factor * seconds}))
    comparison = compare_groups(sides[0], [("auto", sides[1])], varied=["num_steps"])
    assert [row[4:6] for row in cells(markdown([paired_table(comparison)]))[2:]] == [["40", "4.0"], ["25", "5.0"]]
    (unequal,) = caveat_sentences(comparison.caveats)
    assert unequal == "Not at equal time; seconds as multiples of the baseline's: pi 1.25."
    assert caption_of(comparison).endswith("groups differ in num_steps as well")


def test_class_table_has_means_over_the_seeds_and_their_deltas(ablation, make_run):
    comparison = ablation([0.4, 0.6], [0.5, 0.8], [0.3, 0.5], teacher=make_run("teacher", mean_iou=0.9))
    table = cells(markdown(class_table(comparison)))
    assert table[0] == ["IoU (%)", "teacher", "alone", "pi", "pi + pa"]
    assert table[2] == ["road", "90.00", "50.00", "65.00 (+15.00)", "40.00 (-10.00)"]
    assert table[3] == ["sky", "-", "-", "-", "-"]
    assert table[4] == ["**mIoU**", "90.00", "50.00", "65.00 (+15.00)", "40.00 (-10.00)"]
    assert table[-1] == ["parameters", *["1.23 M"] * 4]


def add_costs(run, *steps, **other):
    """Metrics with a row for each of ``steps``, the seconds that one took, and other costs that are the same in all."""
    rows = [{"step": i + 1, "loss/x": 1.0, "cost/step": seconds} for i, seconds in enumerate(steps)]
    other = {f"cost/{name}": value for name, value in other.items()}
    write_lines(run, *(json.dumps(row | other) for row in rows), '{"step": 20, "loss/x": 1.0}')


def test_cost_table_has_means_over_the_seeds_and_their_ratios_to_the_baseline(make_run):
    sides = [[make_run(f"{name}{i}", terms, i) for i in (0, 1)] for name, terms in (("a", []), ("b", [PI]))]
    for run, seconds in zip(sides[0], (0.1, 0.3), strict=True):
        add_costs(run, 9.0, seconds, seconds, saved=2**30)
    for run in sides[1]:
        add_costs(run, 0.25, teacher=0.15, saved=1.5 * 2**30, waiting=0.05)
    header, _, alone, pi = cells(markdown(cost_table(compare_groups(sides[0], [("auto", sides[1])]))))
    assert header[4] == header[6] == "x alone"
    assert alone == ["alone", "0.200", "0.000", "0.200", "1.00", "1.000", "1.00", "-"]
    assert pi == ["pi", "0.250", "0.150", "0.400", "2.00", "1.500", "1.50", "0.050"]


def test_cost_table_has_a_dash_for_runs_that_did_not_measure_it(alone, distilled):
    add_costs(distilled, 0.25, teacher=0.15, saved=2**30)
    _, _, *rows = cells(markdown(cost_table(compare_groups([alone], [("auto", [distilled])]))))
    assert rows == [["alone", *["-"] * 7], ["pi", "0.250", "0.150", "0.400", "-", "1.000", "-", "-"]]


# ------------------------------------------------------------------------------------------------------ sentences


def test_conclusions_go_no_further_than_the_intervals(ablation):
    better, unclear, warning = conclusions(ablation([0.5] * 3, [0.530, 0.531, 0.529], [0.53, 0.49, 0.51]))
    assert better.startswith(
        "pi: +3.00 ± 0.25 (95 % interval of 3 paired seeds; after Holm p < 0.001), better than alone"
    )
    assert unclear.startswith("pi + pa: +1.00")
    assert "not distinguishable from zero at this n" in unclear
    assert "for 2 comparisons with alone" in warning


def test_an_interval_without_zero_is_no_claim_if_it_is_one_of_many(ablation):
    comparison = ablation([0.5] * 3, [0.532, 0.537, 0.562], [0.5, 0.5, 0.51])
    delta = comparison.groups[1].delta
    assert delta.mean > delta.margin
    assert delta.p_value < 0.05 < comparison.p_values[0]
    sentence, _, _ = conclusions(comparison)
    assert "after Holm p = 0.08" in sentence
    assert "not distinguishable from zero" in sentence


def test_conclusion_can_be_that_it_is_worse(ablation):
    assert "worse than alone" in conclusions(ablation([0.5] * 3, [0.470, 0.469, 0.471], [0.5] * 3))[0]


def test_one_seed_allows_no_conclusion(ablation):
    (sentence,) = conclusions(ablation([0.5], [0.6], [0.7]))
    assert "nothing follows" in sentence


def test_two_seeds_are_no_claim_however_far_their_interval_is_from_zero(ablation):
    better, _, _ = conclusions(ablation([0.5] * 2, [0.530, 0.531], [0.5, 0.6]))
    assert better.startswith("pi: +3.05 ± 0.64 (95 % interval of 2 paired seeds), two seeds are too few for a claim")


def test_methods_have_their_names_in_words():
    assert in_words([PI, PA]) == "pixel-wise distillation (pi) and pair-wise distillation (pa)"
    pkd, own = {"name": "pkd_layer3", "method": "pkd"}, {"name": "Mine", "method": "my.py:Mine"}
    assert in_words([PI, pkd, own]) == "pixel-wise distillation (pi), PKD (pkd_layer3) and Mine"


def test_a_report_begins_with_what_was_trained_how_and_of_what_size(distilled):
    write_run_report(distilled)
    opening = (distilled / "report.md").read_text().split("\n\n")[1]
    assert opening.startswith(
        "espnet_c (0.19 M parameters, 2.14 G MACs at 512x1024): 20 steps of 2 samples of camvid, "
    )
    assert "distilled by pixel-wise distillation (pi), from teacher.pth" in opening
    (distilled / "evaluation.json").unlink()  # the data set's classes tell as much
    write_run_report(distilled)
    assert (distilled / "report.md").read_text().split("\n\n")[1] == opening


def test_a_run_that_changed_its_number_of_processes_says_so(alone, make_run):
    pi = make_run("pi", [PI])
    for run, more in ((alone, {}), (pi, {"processes_before": [{"step": 12, "processes": 2}]})):
        change(run / "environment.json", processes=1, **more)
    write_run_report(pi)
    assert "NOTE: pi was trained by 2 to step 12, then by 1 processes" in (pi / "report.md").read_text()
    (sentence,) = caveat_sentences(compare_groups([alone], [("auto", [pi])]).caveats)
    assert sentence.startswith("NOTE: pi seed 0 was trained by 2 to step 12, then by 1 processes")


def test_caption_names_the_images_the_protocol_and_what_was_varied(alone, make_run):
    slow = make_run("slow", lr_g=0.1)
    for run in (alone, slow):
        change(
            run / "evaluation.json", data_list="lists/night.txt", protocol=PROTOCOL | {"count_void": True, "flip": True}
        )
    caption = caption_of(compare_groups([alone], [("slow", [slow])], varied=["lr_g"]))
    assert caption.startswith("mIoU (%) on camvid night.txt, 2 images, whole images; mirrored too; predictions on void")
    assert "groups differ in lr_g" in caption


def test_caveats_name_runs_and_values(alone, make_run):
    pi = make_run("pi", [PI], continued=[{"step": 12, "num_steps": 20}])
    change(pi / "environment.json", torch="2.13.1")
    for run in (alone, pi):
        change(run / "evaluation.json", split="val")
    assert len(caveat_sentences(compare_groups([alone], [("auto", [pi])]).caveats)) == 2  # validated once: no choice
    write_lines(alone, '{"step": 10, "val/mean_iou": 0.4}', '{"step": 20, "val/mean_iou": 0.5}')
    chosen, continued, torch = caveat_sentences(compare_groups([alone], [("auto", [pi])]).caveats)
    assert "chosen on these images" in chosen
    assert "pi seed 0 was continued at step 12 to 20 steps" in continued
    assert "torch: 2.12.0 (alone seed 0); 2.13.1 (pi seed 0)" in torch


# -------------------------------------------------------------------------------------------------------- reports


def test_command_writes_the_report_with_its_pictures_and_prints_the_table(
    make_run, alone, distilled, tiny, tmp_path, capsys
):
    both = make_run("both", [PI, PA], mean_iou=0.45)
    output = tmp_path / "report"
    groups = ["--group", "auto", distilled, "--group", "mine", both]
    main([str(x) for x in ["--baseline", alone, *groups, "--teacher", tiny / "teacher.pth", "--output", output]])
    assert sorted(file.name for file in output.iterdir()) == [
        "classes.png",
        "curves.png",
        "panel.png",
        "report.html",
        "report.md",
    ]
    text = (output / "report.md").read_text()
    printed = capsys.readouterr().out
    assert "| pi " in printed
    assert "-5.00" in printed
    assert printed.split("\n\n")[1] in text
    for picture in ("classes.png", "curves.png", "panel.png"):
        assert f"]({picture})" in text
        Image.open(output / picture).verify()
    assert "## Predictions on camvid test" in text
    assert "method pa, weight 0.5, on layer3" in text
    assert "| teacher" not in text  # a bare checkpoint has no figures


def test_runs_stand_side_by_side_and_those_without_an_evaluation_are_named(alone, distilled, make_run, capsys):
    unknown = make_run("unknown", [PI])
    (unknown / "evaluation.json").unlink()
    main([str(run) for run in (alone, distilled, unknown)])
    table, _, note, _ = capsys.readouterr().out.split("\n\n")
    assert cells(table)[0] == ["IoU (%)", str(alone), str(distilled)]
    assert ["**mIoU**", "50.00", "60.00"] in cells(table)
    assert note.startswith(
        f"No evaluation of its present checkpoint: {unknown} (eval.py --checkpoint {unknown}/best.pth"
    )
    assert all((run / "report.md").is_file() for run in (alone, distilled, unknown))


def test_a_teacher_of_other_classes_is_shown_with_the_score_that_its_class_map_gives(alone, make_run):
    teacher = make_run("teacher", mean_iou=0.9)
    change(teacher / "evaluation.json", protocol=PROTOCOL | {"class_map": "map.txt"})
    comparison = compare_groups([alone], [("auto", [make_run("pi", [PI])])], teacher)
    assert ["teacher", "90.00", *["-"] * 5] in cells(markdown([paired_table(comparison)]))


def test_report_shows_the_settings_in_which_a_group_differs_under_its_name(alone, make_run, tmp_path):
    comparison = compare_groups([alone], [("slow", [make_run("slow", lr_g=0.25)])], varied=["lr_g"])
    write_comparison(comparison, tmp_path / "report", num_images=1)
    before, shared = (tmp_path / "report" / "report.md").read_text().split("### All groups")
    assert "lr_g  0.25" in before.split("### slow")[1]
    assert "lr_g" not in shared
    assert "network_options.q  3" in shared


@pytest.mark.parametrize("arguments", [[], ["--group", "pi"], ["--group", "pi", "x", "--images", "0"]])
def test_command_line_refuses_what_makes_no_sense(arguments, capsys):
    with pytest.raises(SystemExit):
        main(["--baseline", "run", *arguments])
    assert "error: --" in capsys.readouterr().err


def test_panel_shows_what_the_checkpoints_predict_on_the_images_that_were_evaluated(
    alone, distilled, tiny, tmp_path, monkeypatch
):
    for run in (alone, distilled):
        change(run / "options.json", data_dir="moved away")  # what was trained on is not what is shown
    drawn = {}
    monkeypatch.setattr(pictures, "draw_panel", lambda panel, _: drawn.update(panel._asdict()))
    comparison = compare_groups([alone], [("auto", [distilled])], tiny / "teacher.pth")
    write_comparison(comparison, tmp_path / "report", num_images=5)
    assert drawn["titles"] == ["image", "truth", "teacher", "alone", "pi"]
    samples = build_dataset("camvid", tiny / "camvid", "test")
    assert len(drawn["rows"]) == len(samples)
    for (image, truth, *predictions), sample in zip(drawn["rows"], samples, strict=False):
        assert np.array_equal(image, sample.image.permute(1, 2, 0))
        assert np.array_equal(truth, colorize(sample.label, samples.PALETTE))
        for prediction in predictions:  # the tiny teacher drew these labels, and all three files hold it
            assert np.array_equal(prediction[sample.label != 255], truth[sample.label != 255])


def test_panel_follows_the_data_list_and_takes_images_of_unequal_size(alone, distilled, tmp_path, monkeypatch):
    data = tmp_path / "data"
    for i, size in enumerate([(64, 96), (80, 48)]):
        for kind, content in (("images", np.full((*size, 3), 99, np.uint8)), ("labels", np.full(size, i, np.uint8))):
            (data / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(data / kind / f"{i}.png")
    (tmp_path / "list.txt").write_text("images/1.png labels/1.png\nimages/0.png labels/0.png\n")
    for run in (alone, distilled):
        change(run / "evaluation.json", data_dir=str(data), data_list=str(tmp_path / "list.txt"))
    rows = []
    draw = pictures.draw_panel
    monkeypatch.setattr(pictures, "draw_panel", lambda panel, path: (rows.extend(panel.rows), draw(panel, path)))
    write_comparison(compare_groups([alone], [("auto", [distilled])]), tmp_path / "report")
    assert [{cell.shape[:2] for cell in row} for row in rows] == [{(80, 48)}, {(64, 96)}]
    assert "## Predictions on camvid list.txt" in (tmp_path / "report" / "report.md").read_text()


def test_run_report_shows_scores_terms_and_the_settings_that_mattered(alone, make_run):
    both = make_run("both", [PI, PA], mean_iou=0.6, bf16=False, preload=True)
    texts = []
    for run in (alone, both):
        write_run_report(run)
        texts.append((run / "report.md").read_text())
        Image.open(run / "curves.png").verify()
    single, distilled = texts
    assert ["pi", "method pi, weight 10.0, on logits", "20.00"] in cells(distilled)
    assert ["cross_entropy", "", "80.00"] in cells(distilled)
    assert ["cross_entropy", "", "100.00"] in cells(single)
    assert "lr_g" in distilled
    assert "bf16" not in distilled
    assert "preload" not in distilled
    assert "Best validation mIoU: 60.00, at step 20." in distilled
    assert "90.00 mIoU on 2 validation images" in distilled
    assert "## Classes of camvid test" in distilled
    assert "without a teacher" in single


def test_share_at_the_end_is_that_of_the_last_tenth(make_run):
    run = make_run("run", [PI], num_steps=30)
    shares = [0.0] * 27 + [0.1, 0.2, 0.3]
    write_lines(run, *(json.dumps({"step": i, "loss/pi": 1.0, "share/pi": x}) for i, x in enumerate(shares, 1)))
    write_run_report(run)
    assert ["pi", "method pi, weight 10.0, on logits", "20.00"] in cells((run / "report.md").read_text())


def test_run_without_shares_teacher_or_evaluation_has_a_report(make_run):
    run = make_run("run", [PI])
    write_lines(run, '{"step": 20, "loss/pi": 1.0}')
    for name in ("teacher.json", "evaluation.json"):
        (run / name).unlink()
    write_run_report(run)
    text = (run / "report.md").read_text()
    assert ["pi", "method pi, weight 10.0, on logits", "-"] in cells(text)
    assert "| road" not in text


def test_run_report_sets_the_teacher_on_crops_beside_the_student(make_run):
    run = make_run("run", [PI], mean_iou=0.5)
    crops = {"num_crops": 32, "mean_iou": 0.4, "pixel_accuracy": 0.7, "entropy": 0.314}
    change(run / "teacher.json", crops=crops | {"classes": ["road", "sky"], "iou": [0.4, None]})
    write_run_report(run)
    text = (run / "report.md").read_text()
    header, _, *table = cells(text.split("## The teacher as a label")[1].split("##")[0])
    assert header == ["IoU (%)", "teacher, training crops", "student, camvid test"]
    assert table[0] == ["road", "40.00", "50.00"]
    assert table[1] == ["sky", "-", "-"]
    assert table[2:] == [["**mIoU**", "40.00", "50.00"], ["**pixel accuracy**", "70.00", "80.00"]]
    assert "32 training samples" in text
    assert "0.31 nats" in text
    (run / "evaluation.json").unlink()
    write_run_report(run)
    assert ["road", "40.00"] in cells((run / "report.md").read_text())


def test_run_report_says_what_a_step_cost(alone, distilled):
    add_costs(alone, 0.1, 0.2, 0.3, saved=2**30)
    add_costs(distilled, 0.25, teacher=0.15, saved=2**29)
    texts = []
    for run in (alone, distilled):
        write_run_report(run)
        texts.append((run / "report.md").read_text())
    assert "A step took 0.200 s for the student, and kept 1.000 GiB" in texts[0]
    assert "A step took 0.250 s for the student and 0.150 s for the teacher, and kept 0.500 GiB" in texts[1]
    assert "20 steps took 0.4 s, without validation" in texts[1]  # of the one row that has a cost


def test_continued_run_says_so_in_its_report(make_run):
    run = make_run("run", continued=[{"step": 12, "num_steps": 20}])
    write_run_report(run)
    assert "run was continued at step 12 to 20 steps" in (run / "report.md").read_text()


def test_run_report_leaves_out_figures_of_weights_that_have_changed(alone):
    write_run_report(alone)
    assert "| road" in (alone / "report.md").read_text()
    (alone / "best.pth").write_bytes(b"continued")
    write_run_report(alone)
    assert "| road" not in (alone / "report.md").read_text()


def test_import_is_quick():
    code = (
        "import sys, segdistill.utils.report.__main__, segdistill.utils.visualize\n"
        "print([name for name in ('matplotlib', 'scipy', 'tensorboard') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
