"""The rows that count survive kills and resumptions; options without effect do not exist."""

import json

import pytest
from runs import PI, change, write_lines

from segdistill.utils.files import keep_rows
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


@pytest.mark.parametrize("name", ["options.json", "environment.json", "teacher.json", "evaluation.json"])
@pytest.mark.parametrize("content", ["", '{"seed": 0', "[]", "7", '{"seed": "zero"}', "[" * 100_000, b"\xff\xfe\x00"])
def test_a_damaged_file_is_named_in_one_line(distilled, name, content):
    if name == "environment.json" and content.endswith("}" if isinstance(content, str) else b"}"):
        pytest.skip("any JSON object is a sound environment.json")
    (distilled / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"\A\S*/{name}\b.*--save-name\Z"):
        read_run(distilled)


@pytest.mark.parametrize("key", ["seed", "num_steps", "network", "terms"])
@pytest.mark.parametrize("value", ["text", 1.5, [7], {"a": 1}])
def test_an_option_of_another_type_is_named(distilled, key, value):
    if key == "network" and value == "text":
        pytest.skip("any text may name a network")
    change(distilled / "options.json", **{key: value})
    with pytest.raises(ValueError, match=rf"\A\S*/options\.json: {key} is .*--save-name\Z"):
        read_run(distilled)


def test_an_entry_that_is_missing_is_named_when_it_is_needed(distilled):
    options = json.loads((distilled / "evaluation.json").read_text())
    del options["iou"]
    (distilled / "evaluation.json").write_text(json.dumps(options))
    with pytest.raises(ValueError, match=r"evaluation\.json has no entry 'iou'"):
        read_run(distilled).evaluation["iou"]


@pytest.mark.parametrize("line", ["7", "[]", '{"loss": 1.0}', '{"step": "ten"}', '{"step": 10, "loss": "low"}'])
def test_a_row_that_is_no_row_is_named(tmp_path, line):
    write_lines(tmp_path, '{"step": 20, "loss": 3.0}', line, '{"step": 40, "loss": 2.0}')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2 is no row"):
        read_metrics(tmp_path)


def test_a_run_that_is_continued_drops_rows_that_are_ahead_or_damaged(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 3.0}\n[]\n\xff\n{"step": "x"}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo')
    keep_rows(path, 1)
    assert path.read_text() == '{"step": 1, "loss": 3.0}\n'
