"""Hours become steps by what a step was measured to cost."""

import json

import pytest

from segdistill.utils.budget import main


@pytest.fixture
def measured(tmp_path):
    """Makes the folder of a run whose steps cost these seconds, of the student and of the teacher."""

    def make(name, student=None, teacher=None):
        run = tmp_path / name
        run.mkdir()
        options = {"seed": 0, "num_steps": 20, "batch_size": 2, "network": "espnet_c", "dataset": "scenes"}
        (run / "options.json").write_text(json.dumps(options))
        (run / "environment.json").write_text("{}")
        costs = {"cost/step": student, "cost/teacher": teacher}
        row = {"step": 20} | {name: seconds for name, seconds in costs.items() if seconds}
        (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        return str(run)

    return make


def test_the_teacher_s_time_counts(measured, capsys):
    alone, distilled = measured("alone", 0.25), measured("distilled", 0.25, 0.5)
    main(["2", alone, distilled])
    assert capsys.readouterr().out.splitlines() == [
        f"28800 steps of 0.2500 s: {alone}",
        f"9600 steps of 0.7500 s: {distilled}",
    ]


def test_hours_too_short_for_a_step_are_refused(measured, capsys):
    runs = [measured("fast", 0.25), measured("slow", 9.0)]
    with pytest.raises(ValueError, match=r"0\.002 hours are 7\.2 s, less than a step of .*slow \(9 s\)"):
        main(["0.002", *runs])
    assert not capsys.readouterr().out


def test_a_run_without_costs_is_refused(measured):
    with pytest.raises(ValueError, match=r"old has not measured what a step costs"):
        main(["1", measured("old")])


@pytest.mark.parametrize("hours", ["0", "-1", "inf", "two"])
def test_hours_are_a_number_above_0(hours, capsys):
    with pytest.raises(SystemExit):
        main([hours, "run"])
    assert "argument HOURS: expected a number" in capsys.readouterr().err
