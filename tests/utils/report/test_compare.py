"""Fair comparisons only, paired by seed, and no conclusion beyond the spread."""

import json

import numpy as np
import pytest
from runs import PA, PI, change, sha256, write_lines
from scipy import stats

from segdistill.utils.report import Delta, compare_groups, read_run
from segdistill.utils.report.compare import holm


@pytest.fixture
def compare_pair(alone, distilled):
    """Compares the two runs; keywords as of ``compare_groups``."""
    return lambda **options: compare_groups([alone], [("auto", [distilled])], **options)


# ------------------------------------------------------------------------------------------------------- figures


def test_groups_stand_beside_the_baseline_seed_by_seed(make_run):
    def runs(name, terms, scores):
        return [make_run(f"{name}{seed}", terms, seed, score) for seed, score in scores.items()]

    baseline = runs("alone", [], {2: 0.60, 0: 0.40, 1: 0.50})
    groups = [
        ("auto", runs("pi", [PI], {0: 0.41, 1: 0.52, 2: 0.63})),
        ("mine", runs("x", [PI, PA], dict.fromkeys(range(3), 0.3))),
    ]
    alone, pi, mine = compare_groups(baseline, groups).groups
    assert (alone.name, pi.name, mine.name) == ("alone", "pi", "mine")
    assert alone.delta is None
    assert alone.scores == {0: 0.40, 1: 0.50, 2: 0.60}
    assert (alone.mean, alone.std) == pytest.approx((0.5, 0.1))
    assert (pi.mean, pi.std) == pytest.approx((0.52, 0.11))
    assert pi.delta.seeds == pytest.approx({0: 0.01, 1: 0.02, 2: 0.03})
    assert pi.delta.mean == pytest.approx(0.02)
    assert pi.delta.margin == pytest.approx(4.302653 * 0.01 / 3**0.5)
    assert mine.delta.mean == pytest.approx(-0.2)


def test_auto_joins_the_names_of_the_terms(make_run, alone):
    comparison = compare_groups([alone], [("auto", [make_run("both", [PI, PA])])])
    assert [group.name for group in comparison.groups] == ["alone", "pi + pa"]


def test_baseline_may_be_distilled_itself(make_run, distilled):
    comparison = compare_groups([distilled], [("auto", [make_run("both", [PI, PA], mean_iou=0.7)])])
    assert [group.name for group in comparison.groups] == ["pi", "pi + pa"]
    assert comparison.groups[1].delta.mean == pytest.approx(0.1)


def test_class_that_is_absent_in_a_pair_does_not_enter_its_mean(make_run):
    sides = [[make_run(f"{side}{seed}", terms, seed) for seed in (0, 1)] for side, terms in (("a", []), ("b", [PI]))]
    for run, iou in zip((*sides[0], *sides[1]), ([0.5, None], [0.5, 0.1], [0.6, None], [0.9, 0.4]), strict=True):
        change(run / "evaluation.json", classes=["road", "sky", "car"], iou=[*iou, None])
    delta = compare_groups(sides[0], [("pi", sides[1])]).groups[1].delta
    assert delta.class_means == [pytest.approx(0.25), pytest.approx(0.3), None]


def test_interval_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 8) * 10:
        deltas = rng.normal(0.01, 0.01, n)
        delta = Delta(dict(enumerate(deltas.tolist())), [])
        low, high = stats.ttest_1samp(deltas, 0).confidence_interval()
        assert (delta.mean - delta.margin, delta.mean + delta.margin) == pytest.approx((low, high))
        assert delta.p_value == pytest.approx(stats.ttest_1samp(deltas, 0).pvalue)


def test_deltas_without_any_spread_leave_no_doubt():
    assert Delta({0: 0.5, 1: 0.5}, []).p_value == 0
    assert Delta({0: 0.0, 1: 0.0}, []).p_value == 1


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # By hand: 4 * 0.005, 3 * 0.01, 2 * 0.03, and 1 * 0.04, which may not be less than the one before.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.6, 0.7], [1, 1]),
        ([0.03], [0.03]),
        # statsmodels 0.15.0, multipletests(method="holm")
        (
            [0.0431, 0.2114, 0.0008, 0.7302, 0.0431, 0.0125, 0.9912],
            [0.2155, 0.6342, 0.0056, 1.0, 0.2155, 0.075, 1.0],
        ),
    ],
)
def test_holm_corrects_for_the_number_of_tests(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted)


def test_p_values_are_corrected_for_the_number_of_groups(make_run):
    def runs(name, terms, scores):
        return [make_run(f"{name}{seed}", terms, seed, score) for seed, score in enumerate(scores)]

    baseline = runs("alone", [], [0.50, 0.51, 0.52])
    pi, pa = runs("pi", [PI], [0.52, 0.54, 0.53]), runs("pa", [PA], [0.50, 0.53, 0.51])
    alone = [compare_groups(baseline, [("auto", group)]).p_values[0] for group in (pi, pa)]
    assert alone[0] == pytest.approx(stats.ttest_rel([0.52, 0.54, 0.53], [0.50, 0.51, 0.52]).pvalue)
    assert alone[0] < alone[1]
    both = compare_groups(baseline, [("pi", pi), ("pa", pa)])
    assert both.p_values == pytest.approx([2 * alone[0], max(2 * alone[0], alone[1])])


def test_training_time_is_summed_over_the_steps_whatever_machine_they_ran_on(make_run):
    run = make_run("run", [PI])
    rows = [
        {"step": 10, "cost/step": 0.2, "cost/teacher": 0.1},
        {"step": 15, "cost/step": 0.4, "cost/teacher": 0.2},  # continued on a slower one
        {"step": 20, "cost/step": 0.4, "cost/teacher": 0.2},
    ]
    write_lines(run, *map(json.dumps, rows))
    assert read_run(run).seconds == pytest.approx(10 * 0.3 + 10 * 0.6)


def test_only_unequal_training_times_are_named(make_run):
    def costly(name, seconds, terms=()):
        run = make_run(name, terms)
        write_lines(run, json.dumps({"step": 20, "cost/step": seconds}))
        return run

    groups = [(name, [costly(name, seconds, [PI])]) for name, seconds in (("same", 1.05), ("slow", 1.5), ("fast", 0.5))]
    comparison = compare_groups([costly("alone", 1.0)], [*groups, ("old", [make_run("old")])])
    assert comparison.caveats.times == pytest.approx({"slow": 1.5, "fast": 0.5})


def test_one_seed_has_no_spread_and_excludes_nothing(compare_pair):
    comparison = compare_pair()
    baseline, group = comparison.groups
    assert comparison.caveats.one_seed
    assert (baseline.std, group.delta.margin, comparison.p_values) == (None, None, [None])
    assert group.delta.mean == pytest.approx(0.1)


# ------------------------------------------------------------------------------------------------- what may differ


@pytest.mark.parametrize(
    "changes",
    [
        {"num_steps": 10},
        {"batch_size": 4},
        {"optimizer": "adam"},
        {"norm": "sync_batch_norm"},
        {"network_options": {"p": 2, "q": 4}},
        {"data_list": "some.txt"},
        {"val_every": 5},
        {"lr_g": 0},
        {"an_option_of_later_versions": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_difference_in_more_than_distillation_is_refused(compare_pair, distilled, changes):
    change(distilled / "options.json", **changes)
    with pytest.raises(ValueError, match=rf"differ in {next(iter(changes))}"):
        compare_pair()


def test_bookkeeping_and_options_without_effect_may_differ(compare_pair, distilled):
    bookkeeping = {"device": "cpu", "num_workers": 9, "log_every": 1, "data_dir": "/elsewhere", "snapshot_dir": "x"}
    change(distilled / "options.json", **bookkeeping, later=None, off=False, empty=[], none={})
    assert compare_pair().groups[1].delta.mean == pytest.approx(0.1)


def test_option_that_is_named_may_vary_between_groups_but_not_within_one(make_run, alone):
    slow = make_run("slow", lr_g=0.1, network_options={"p": 2, "q": 4})
    comparison = compare_groups([alone], [("slow", [slow])], varied=["lr_g", "network_options.q"])
    assert comparison.varied == ["lr_g", "network_options.q"]
    baseline = [alone, make_run("alone1", seed=1)]
    with pytest.raises(ValueError, match="lr_g"):
        compare_groups(baseline, [("slow", [slow, make_run("slow1", seed=1)])], varied=["lr_g", "network_options"])


def test_varied_option_that_nobody_varies_is_refused(compare_pair):
    with pytest.raises(ValueError, match="--vary lr: no group differs"):
        compare_pair(varied=["lr"])


def test_terms_may_not_differ_within_a_group(make_run, alone):
    heavy = make_run("heavy", [PI | {"weight": 1.0}], seed=1)
    with pytest.raises(ValueError, match=r"terms\.pi\.weight: 10\.0 and 1\.0"):
        compare_groups([alone, make_run("alone1", seed=1)], [("pi", [make_run("pi", [PI]), heavy])])


def test_settings_of_a_term_without_effect_may_be_absent(make_run, alone):
    groups = [make_run("pi", [PI]), make_run("pi1", [PI | {"later": None}], seed=1)]
    assert len(compare_groups([alone, make_run("alone1", seed=1)], [("pi", groups)]).groups[1].runs) == 2


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]], ids=["too few", "too many"])
def test_seed_without_partner_is_an_error(make_run, alone, seeds):
    group = [make_run(f"pi{seed}", [PI], seed) for seed in seeds]
    with pytest.raises(ValueError, match=r"lacks seeds \[[12]\]"):
        compare_groups([alone, make_run("alone1", seed=1)], [("auto", group)])


def test_seed_given_twice_is_refused(make_run, alone, distilled):
    with pytest.raises(ValueError, match="a seed occurs twice"):
        compare_groups([alone, make_run("again")], [("auto", [distilled])])


def test_name_given_twice_is_refused(make_run, alone):
    with pytest.raises(ValueError, match="'alone' is taken"):
        compare_groups([alone], [("auto", [make_run("again")])])


def test_unfinished_run_is_refused(compare_pair, distilled):
    write_lines(distilled, '{"step": 10, "loss": 3.0}')
    with pytest.raises(ValueError, match=r"step 10 of 20.*--resume"):
        compare_pair()


def test_run_without_evaluation_of_its_weights_is_refused(compare_pair, distilled):
    (distilled / "best.pth").write_bytes(b"more")
    with pytest.raises(ValueError, match="no evaluation of its present checkpoint"):
        compare_pair()


def test_best_weights_are_not_compared_with_last_ones(compare_pair, distilled):
    (distilled / "best.pth").rename(distilled / "last.pth")
    change(distilled / "evaluation.json", checkpoint="last.pth")
    with pytest.raises(ValueError, match=r"best\.pth and last\.pth"):
        compare_pair()


@pytest.mark.parametrize(
    ("key", "value"),
    [("dataset", "scenes"), ("images", "others"), ("classes", ["sky", "road"]), ("protocol", {"count_void": True})],
)
def test_evaluations_of_different_subjects_are_refused(compare_pair, distilled, key, value):
    change(distilled / "evaluation.json", **{key: value})
    with pytest.raises(ValueError, match=f"differ in {key}"):
        compare_pair()


# -------------------------------------------------------------------------------------------------------- teachers


def test_teacher_is_a_run_or_a_checkpoint(compare_pair, make_run, tiny):
    run = make_run("teacher", mean_iou=0.9)
    for teacher in (run, run / "best.pth"):
        comparison = compare_pair(teacher=teacher)
        assert comparison.teacher == run / "best.pth"
        assert comparison.teacher_evaluation["mean_iou"] == 0.9
    bare = compare_pair(teacher=tiny / "teacher.pth")
    assert (bare.teacher, bare.teacher_evaluation) == (tiny / "teacher.pth", None)


def test_teacher_that_taught_nobody_is_refused(compare_pair, tmp_path):
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"need one teacher.*teacher\.pth.*other\.pth"):
        compare_pair(teacher=tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match=r"no teacher.*absent\.pth"):
        compare_pair(teacher=tmp_path / "absent.pth")


def test_different_teachers_are_refused(compare_pair, make_run, alone, distilled):
    other = make_run("other", [PI, PA])
    change(other / "teacher.json", file="other.pth", sha256="1")
    with pytest.raises(ValueError, match=r"need one teacher.*teacher\.pth.*other\.pth"):
        compare_groups([alone], [("auto", [distilled]), ("auto", [other])])


def test_run_of_unknown_teacher_is_no_partner_of_one_whose_teacher_is_known(make_run, alone, distilled):
    unknown = make_run("unknown", [PI], seed=1)
    (unknown / "teacher.json").unlink()
    with pytest.raises(ValueError, match=r"unknown from None"):
        compare_groups([alone, make_run("alone1", seed=1)], [("auto", [distilled, unknown])])


def test_teacher_evaluated_on_other_images_is_refused(compare_pair, make_run):
    teacher = make_run("teacher")
    change(teacher / "evaluation.json", images="others")
    with pytest.raises(ValueError, match="the teacher cannot be compared"):
        compare_pair(teacher=teacher)


def test_evaluation_of_another_file_beside_the_teacher_is_left_out(compare_pair, make_run, tiny):
    teacher = make_run("teacher")
    (teacher / "best.pth").rename(teacher / "released.pth")
    (teacher / "best.pth").write_bytes(b"another")
    change(teacher / "evaluation.json", sha256=sha256(teacher / "best.pth"))
    assert compare_pair(teacher=teacher / "released.pth").teacher_evaluation is None


TAUGHT = {
    "teacher_scale": 0.5,
    "class_map": "a.txt",
    "teacher_network": "timm:vit",
    "teacher_options": {"pretrained": True},
    "teacher_stride": 2,
    "teacher_precision": "bf16",
    "teacher_compile": True,
}


def test_options_of_the_teacher_alone_tell_no_group_from_a_baseline_without_one(make_run, alone):
    group = make_run("group", [PI], mean_iou=0.6, **TAUGHT)
    assert compare_groups([alone], [("auto", [group])]).groups[1].delta.mean == pytest.approx(0.1)


@pytest.mark.parametrize("option", TAUGHT)
@pytest.mark.parametrize("baseline_is_distilled", [False, True])
def test_groups_that_were_distilled_in_different_ways_are_refused(make_run, option, baseline_is_distilled):
    runs = [make_run("pi", [PI]), make_run("pa", [PA], **{option: TAUGHT[option]})]
    if not baseline_is_distilled:
        runs.insert(0, make_run("alone"))
    groups = [("auto", [run]) for run in runs[1:]]
    with pytest.raises(ValueError, match=rf"pi and .*pa cannot be compared fairly, they differ in {option}"):
        compare_groups(runs[:1], groups)
    assert compare_groups(runs[:1], groups, varied=[option])


# --------------------------------------------------------------------------------------------------------- caveats


def test_clean_comparison_has_no_caveat_but_its_single_seed(compare_pair):
    caveats = compare_pair().caveats
    assert caveats.one_seed
    assert not caveats.chosen_on_evaluated
    assert caveats.continued == caveats.environments == {}


def test_environments_that_differ_are_listed_with_their_runs(compare_pair, distilled):
    environment = json.loads((distilled / "environment.json").read_text()) | {"torch": "2.13.1", "date": "later"}
    (distilled / "environment.json").write_text(json.dumps(environment))
    assert compare_pair().caveats.environments == {"torch": {"2.12.0": ["alone seed 0"], "2.13.1": ["pi seed 0"]}}


def test_continued_run_is_comparable_and_known(compare_pair, distilled):
    change(distilled / "options.json", continued=[{"step": 12, "num_steps": 20}])
    assert compare_pair().caveats.continued == {"pi seed 0": [{"step": 12, "num_steps": 20}]}


def test_selection_on_the_evaluated_images_is_known(compare_pair, alone, distilled):
    for run in (alone, distilled):
        change(run / "evaluation.json", split="val")
    assert not compare_pair().caveats.chosen_on_evaluated  # validated once, there was no choice
    write_lines(alone, '{"step": 10, "val/mean_iou": 0.4}', '{"step": 20, "val/mean_iou": 0.5}')
    assert compare_pair().caveats.chosen_on_evaluated
    for run in (alone, distilled):
        (run / "best.pth").rename(run / "last.pth")
        change(run / "evaluation.json", checkpoint="last.pth")
    assert not compare_pair().caveats.chosen_on_evaluated
