"""The rows that count survive kills and resumptions; options without effect do not exist."""

import json

import pytest
from runs import PI, change, write_lines

from segdistill.utils.report.read import flat, read_evaluation, read_metrics, read_run


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


def test_folder_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"options\.json.*not the folder of a run"):
        read_run(tmp_path)


def test_evaluation_of_a_checkpoint_that_has_changed_does_not_count(alone):
    assert read_evaluation(alone)["mean_iou"] == 0.5
    (alone / "best.pth").write_bytes(b"continued")
    assert read_evaluation(alone) is None


def test_options_without_effect_are_left_out_but_zero_is_a_value():
    options = {"a": None, "b": False, "c": [], "d": {}, "zero": 0, "none": 0.0, "nested": {"x": 1, "y": None}}
    assert flat(options) == {"zero": 0, "none": 0.0, "nested.x": 1}


def test_settings_name_terms_and_leave_out_the_history(make_run):
    run = read_run(make_run("run", [PI], continued=[{"step": 12, "num_steps": 20}]))
    assert run.settings["terms.pi.weight"] == 10.0
    assert run.settings["network_options.q"] == 3
    assert not any(key.startswith("continued") for key in run.settings)


def test_run_of_an_older_version_without_terms_learned_alone(alone):
    options = json.loads((alone / "options.json").read_text())
    del options["terms"]
    (alone / "options.json").write_text(json.dumps(options))
    assert read_run(alone).terms == []
    change(alone / "options.json", terms=None)
    assert read_run(alone).terms == []
