"""The search: its space, that every trial is trained once whatever is killed when, its report."""

import itertools
import json
import shlex
import sys
import threading
import zlib
from collections import Counter

import pytest
from forks import chance
from PIL import Image

from segdistill.utils.flags import NOT_FINITE
from segdistill.utils.search.space import Space
from segdistill.utils.search.trainer import Trainer
from segdistill.utils.tasks import TASKS

optuna = pytest.importorskip("optuna", reason="Optuna is not installed")
optuna.logging.set_verbosity(optuna.logging.WARNING)

from optuna.storages.journal import JournalFileBackend  # noqa: E402

from segdistill.utils.search.__main__ import main, trials_of  # noqa: E402
from segdistill.utils.search.report import report_search  # noqa: E402
from segdistill.utils.search.study import JOURNAL, Search  # noqa: E402

LISTS = "--pi weight=1,3 temperature=1,2,4 | --cwd on=logits,context"
RANGES = "--pi weight=0.1..10:log temperature=1,2,4 | --cwd weight=1..10"
STEPS, EVERY = 8, 2
STRIDE = 9  # between the places where a search is killed; the first is random


class Killed(BaseException):
    """Stands for SIGKILL."""


class Rehearsal(Trainer):
    """Writes the metrics of students, whose score is a function of their name.

    ``trained`` counts the steps of each, ``before_step`` is called before each of them.
    """

    def __init__(self, folder, diverging=""):
        super().__init__([], [], [])
        self.folder, self.diverging, self.trained, self.before_step = folder, diverging, {}, lambda: None

    def run(self, students, *more, locks=()):
        stop = int(more[1]) if more else STEPS
        for step in range(1, stop + 1):
            for name in students:
                self.advance(self.folder / name, step)
            if step == 5 and self.diverging in students:
                return NOT_FINITE
        for name in students if stop == STEPS else ():
            (self.folder / name / "report.md").touch()
        return 0

    def advance(self, run, step):
        metrics = run / "metrics.jsonl"
        if metrics.exists() and len(metrics.read_text().splitlines()) >= step:
            return  # the run is continued
        self.before_step()
        self.trained[run.name] = self.trained.get(run.name, 0) + 1
        row = {"step": step, "loss": 1.0, "cost/step": 0.1}
        if step % EVERY == 0:
            row["val/mean_iou"] = (zlib.crc32(run.name.encode()) % 100 + step) / 200
        run.mkdir(exist_ok=True)
        with metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")
        options = {"seed": 0, "num_steps": STEPS, "batch_size": 2, "network": "espnet_c", "dataset": "camvid"}
        (run / "options.json").write_text(json.dumps(options))
        (run / "environment.json").write_text("{}")


def make_search(trainer, text=LISTS, **settings):
    settings = {"sampler": "grid", "num_trials": 8, "beside": 2, "seed": 0, "identity": {}} | settings
    trainer.folder.mkdir(exist_ok=True)
    figure = TASKS["segmentation"].primary
    steps = {"num_steps": STEPS, "val_every": EVERY, "figure": figure}
    return Search(trainer.folder, settings.pop("identity"), trainer, Space(text), **settings, **steps)


def outcome(search):
    """What became of each trial, in their order."""
    name = search.space.name
    return [(name(one.params), one.state.name, one.value, one.intermediate_values) for one in search.study.trials]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the space is empty"),
        (" | ", "the space is empty"),
        ("--pi wight=3", "--pi has no setting 'wight=3'"),
        ("--magic weight=3", "no method 'magic'"),
        ("weight=3", "expected --METHOD"),
        ("--pi weight=heavy,3", "--pi weight=heavy: expected a number"),
        ("--pi weight=1,1", "weight=1,1 has a value twice"),
        ("--pi weight=1 weight=2", "weight of --pi is given twice"),
        ("--pi weight=10..1", "the smaller first"),
        ("--pi weight=0..1:log", "above 0"),
        ("--loss nowhere.py:Mine weight=1,2", "no file"),
    ],
)
def test_a_space_that_cannot_be_searched_is_an_error(text, message):
    with pytest.raises((ValueError, OSError), match=message):
        Space(text)


def test_a_space_holds_every_combination_of_an_alternative():
    space = Space("--pi weight=1,3 --fitnet on=layer3 weight=2,4\n--cwd on=logits,layer3:layer3 | --cwd")
    grid = space.grid()
    assert len(grid) == 4 + 2 + 1
    assert space.words(grid["pi_weight_3+fitnet_on_layer3_weight_2"]) == [
        *("--pi", "weight=3", "--fitnet", "on=layer3", "weight=2")
    ]
    assert space.words(grid["cwd_on_layer3_layer3"]) == ["--cwd", "on=layer3:layer3"]
    assert space.words(grid["cwd"]) == ["--cwd"]
    assert {word for words in space.examples() for word in words} == {
        *("--pi", "weight=1", "weight=3", "--fitnet", "on=layer3", "weight=2", "weight=4"),
        *("--cwd", "on=logits", "on=layer3:layer3"),
    }


@pytest.mark.parametrize(
    ("text", "sampler", "trials", "message"),
    [
        ("--pi weight=1..10", "grid", None, "of ranges tpe draws"),
        ("--pi weight=1,3", "grid", 12, "the grid has 2 settings, not 12"),
        ("--pi weight=1,3", "tpe", 12, "the space has 2 settings, fewer than 12"),
        ("--pi weight=1..10", "tpe", None, "needs a number of trials"),
        ("--pi weight=1", "grid", None, "a single setting"),
    ],
)
def test_a_number_of_trials_that_a_space_does_not_have_is_an_error(text, sampler, trials, message):
    with pytest.raises(ValueError, match=message):
        trials_of(Space(text), sampler, trials)


@pytest.mark.parametrize(("text", "sampler", "num_trials"), [(LISTS, "grid", 8), (RANGES, "tpe", 5)])
def test_a_search_killed_anywhere_ends_as_one_that_was_not(tmp_path, monkeypatch, text, sampler, num_trials):
    """Before any write to the study and before any step of training."""
    write = JournalFileBackend.append_logs

    def start(trainer, end=None):
        """The search, killed at the place ``end``; the number of places."""
        places = itertools.count()

        def place():
            if next(places) == end:
                raise Killed

        def append_logs(backend, logs):
            place()
            write(backend, logs)

        monkeypatch.setattr(JournalFileBackend, "append_logs", append_logs)
        trainer.before_step = place
        search = make_search(trainer, text, sampler=sampler, num_trials=num_trials)
        try:
            search.run()
        finally:
            search.release([*search.claims])  # as the end of a process does
        return search, next(places)

    whole, num_places = start(Rehearsal(tmp_path / "whole"))
    expected, trained = outcome(whole), whole.trainer.trained
    assert {state for _, state, _, _ in expected} == {"COMPLETE", "PRUNED"}
    assert len(trained) == num_trials
    assert trained == {name: max(scores) for name, _, _, scores in expected}
    for end in range(chance.randrange(STRIDE), num_places, STRIDE):
        trainer = Rehearsal(tmp_path / str(end))
        with pytest.raises(Killed):
            start(trainer, end)
        search, _ = start(trainer)
        assert outcome(search) == expected, end
        assert trainer.trained == trained, end


def test_two_processes_share_the_trials_of_a_search(tmp_path):
    """Threads stand for them: locks of files belong to who opened them."""
    trainers = [Rehearsal(tmp_path / "search") for _ in range(2)]
    searches, together = [make_search(trainer) for trainer in trainers], threading.Barrier(2, timeout=60)
    for trainer in trainers:
        trainer.before_step = lambda trainer=trainer: None if trainer.trained else together.wait()

    def work(search):
        search.run_alone(wait=False)
        search.run()
        search.run_alone(wait=True)

    threads = [threading.Thread(target=work, args=[search]) for search in searches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    trained = Counter()
    for trainer in trainers:
        trained.update(trainer.trained)
        assert trainer.trained, "each has its share"
    assert trained.pop("alone") == STEPS
    assert trained == {name: max(scores) for name, _, _, scores in outcome(searches[0])}
    assert len(trained) == 8


def test_without_locks_there_is_no_search(tmp_path, monkeypatch):
    monkeypatch.setattr("segdistill.utils.search.study.lock", lambda *_: False)
    with pytest.raises(OSError, match=r"a search needs file locks.*another --output"):
        make_search(Rehearsal(tmp_path / "search"))


def test_settings_that_diverge_do_not_end_those_beside_them(tmp_path):
    trainer = Rehearsal(tmp_path / "search", diverging="pi_weight_1_temperature_2")
    search = make_search(trainer)
    search.run()
    states = {name: state for name, state, _, _ in outcome(search)}
    assert states.pop("pi_weight_1_temperature_2") == "FAIL"
    assert set(states.values()) == {"COMPLETE", "PRUNED"}
    assert len(states) == 7
    assert "| not finite |" in report_search(search)


def test_a_search_of_other_things_in_the_same_folder_is_an_error(tmp_path):
    trainer = Rehearsal(tmp_path / "search")
    make_search(trainer, identity={"space": ["--pi weight=1,3"], "seed": 0}).run()
    with pytest.raises(ValueError, match=r"search holds another search: space \['--pi weight=1,3'\], now \['--cwd'\]"):
        make_search(trainer, identity={"space": ["--cwd"], "seed": 0})


def test_a_finished_search_goes_on_with_more_trials(tmp_path):
    trainer = Rehearsal(tmp_path / "search")
    first = make_search(trainer, RANGES, sampler="tpe", num_trials=3)
    first.run()
    before, more = outcome(first), make_search(trainer, RANGES, sampler="tpe", num_trials=5)
    more.run()
    assert outcome(more)[:3] == before
    assert len(outcome(more)) == len(trainer.trained) == 5


def test_a_row_that_a_full_disk_cut_off_is_dropped(tmp_path):
    trainer = Rehearsal(tmp_path / "search")
    make_search(trainer).run()
    whole = (trainer.folder / JOURNAL).read_bytes()
    (trainer.folder / JOURNAL).write_bytes(whole[:-9])
    search = make_search(trainer)
    search.run()
    assert [state for _, state, _, _ in outcome(search)].count("RUNNING") == 0
    assert sum(trainer.trained.values()) == sum(max(scores) for _, _, _, scores in outcome(search))


def test_the_report_ranks_the_trials_and_says_how_to_confirm_the_best(tmp_path):
    search = make_search(Rehearsal(tmp_path / "search"), RANGES, sampler="tpe")
    search.run_alone(wait=True)
    search.run()
    printed = report_search(search, ["teacher=a b.pth", "flags=--num-steps 8"])
    report = (search.folder / "report.md").read_text()
    assert printed.splitlines()[0] in report
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.splitlines() if line.startswith("| -")]
    rows = [row for row in rows if not row[0].startswith("---")]
    ended = [row for row in rows if not row[1]]
    trials = {name: (state, value) for name, state, value, _ in outcome(search)}
    assert [float(row[2]) for row in ended] == sorted((float(row[2]) for row in ended), reverse=True)
    assert float(ended[0][2]) == pytest.approx(100 * max(v for s, v in trials.values() if s == "COMPLETE"), abs=0.01)
    assert {row[1] for row in rows[len(ended) :]} == {"stopped"}
    assert len(rows) == 8
    words = shlex.split(next(line for line in report.splitlines() if line.endswith("experiments/compare.sh")))
    assert words[:2] == [f"methods=best: {ended[0][0]}", "seeds=1 2 3"]
    assert words[2:4] == ["teacher=a b.pth", "flags=--num-steps 8"]
    for picture in ("settings.png", "curves.png"):
        assert Image.open(search.folder / picture).size[0] > 300


def test_without_optuna_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"pip install segdistill\[search\]"):
        main(["--space", "--pi weight=1,2", "--output", str(tmp_path)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--space": "--pi wight=1,2"}, "--pi has no setting 'wight=1'"),
        ({"--sampler": "tpe"}, "tpe needs a number of trials"),
        ({"--teaching": "--T_ckpt_path nowhere.pth"}, "no file nowhere.pth"),
        ({"--space": "--fitnet weight=1,2 on=layer3"}, "trains features alone"),
        ({"--space": "--cwd weight=1,2 on=aux_logits:logits"}, "trains features alone"),
    ],
)
def test_bad_input_is_one_line_before_the_first_step(tiny, tmp_path, capsys, changes, message):
    given = {
        "--space": "--pi weight=1,2",
        "--output": tmp_path / "out",
        "--teaching": f"--T_ckpt_path {tiny}/teacher.pth",
    }
    data = ["--dataset", "camvid", "--data-dir", tiny / "camvid", "--network", "espnet_c", "--task-weight", "0"]
    argv = [word for pair in (given | changes).items() for word in pair]
    with pytest.raises((ValueError, SystemExit)) as caught:
        main([*map(str, argv), "--", *map(str, data)])
    assert message in str(caught.value) + capsys.readouterr().err
    assert not (tmp_path / "out").exists()
