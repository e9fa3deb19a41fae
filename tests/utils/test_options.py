import json
from dataclasses import fields
from pathlib import Path

import pytest

from segdistill.dataset import DATASETS
from segdistill.network.settings import settings_of
from segdistill.utils.flags import Parser
from segdistill.utils.losses import DISTILLATION_LOSSES
from segdistill.utils.options import (
    BOOKKEEPING,
    PLACES,
    TEACHING,
    TeacherOptions,
    complete,
    make_parser,
    name_terms,
    parse_options,
    plain,
)
from segdistill.utils.options.parts import FLAGS, flag_of

PSPNET = ["--network", "pspnet"]
ESPNET = ["--network", "espnet_c"]


@pytest.fixture
def teacher(tmp_path):
    """The arguments that name a teacher; nothing reads the file."""
    (tmp_path / "t.pth").touch()
    return ["--T_ckpt_path", str(tmp_path / "t.pth")]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--random-scale", "false", "--scale-range", "0.5", "2"], "--scale-range has no effect without"),
        (["--scale-range", "2", "0.5"], "the smaller factor comes first"),
        (["--scale-range", "0", "1"], "a number, 0.0625 or more"),
        (["--scale-step", "5"], "--scale-step 5 leaves one factor"),
        (["--scale-step", "0.1", "--random-scale", "false"], "--scale-step 0.1 leaves one factor of 1 ... 1"),
        (["--short-side", "9", "5"], "--short-side 9 5: the smaller length comes first"),
        (["--short-side", "5", "9", "--random-scale"], "both scale"),
        (["--max-class-share", "75"], "at most 1"),
        (["--augment", "sharpen"], "no augmentation 'sharpen'; known: rotate, photometric, jitter, grey, blur"),
        (["--augment", "grey", "grey=0.3"], "augmentation grey is given twice"),
        (["--augment", "grey=2"], "augmentation grey=2: expected a number above 0 and at most 1"),
        (["--augment", "blur=much"], "augmentation blur=much: expected a number"),
        (["--teacher-view", "weak"], "--teacher-view has no effect without a teacher"),
        (
            ["--pi", "--teacher-network", "pspnet", "--teacher-view", "weak", "--augment", "rotate"],
            "--teacher-view weak has no effect without --augment of colours",
        ),
        (["--pi"], "--pi needs a teacher"),
        (["--T_ckpt_path", __file__], "no effect without a distillation method"),
        (["--pi", "--T_ckpt_path", "none.pth"], "no file none.pth"),
        (["--pi", "wight=3"], "no setting 'wight=3'"),
        (["--pi", "weight=heavy"], "expected a number, not 'heavy'; it means: factor of the term"),
        (["--pi", "weight=nan"], "expected a number, not 'nan'"),
        (["--pi", "weight=1", "weight=2"], "given twice"),
        (["--ho", "kind=gan"], "expected one of wgan-gp, hinge"),
        (["--ohem", "keep=3"], "--ohem has no setting 'keep=3'"),
        (["--ohem", "--batch-size", "2"], "--ohem keeps 100000 pixels at least, but a process sees"),
        (["--ohem", "min_kept=100", "threshold=2"], "at most 1"),
        ([*PSPNET, "--network-options", "q=3"], "pspnet has no setting 'q=3'"),
        ([*ESPNET, "--network-options", "backbone=resnet18_v1s"], "espnet_c has no setting"),
        ([*ESPNET, "--network-options", "norm=inplace_abn"], "espnet_c has no setting"),
        ([*ESPNET, "--network-options", "p=two"], "expected a whole number"),
        ([*ESPNET, "--student-pretrain-model-imgnet", __file__], "has no backbone"),
        (["--S_ckpt_path", __file__, "--student-pretrain-model-imgnet", __file__], "give one"),
        (["--quantise", "int8"], "--quantise starts from a trained student: --S_ckpt_path FILE"),
        (["--quantise", "int8", "--S_ckpt_path", __file__, "--precision", "bf16"], "no --precision beside it"),
        (["--quantise", "int8", "--S_ckpt_path", __file__, "--compile"], "--compile has no effect with --quantise"),
        (["--optimizer", "adam", "--momentum", "0.9"], "--momentum has no effect"),
        (["--optimizer", "adamw", "--momentum", "0.9"], "--momentum has no effect with --optimizer adamw"),
        (["--schedule", "exponential"], "expected one of poly, cosine, constant, multistep"),
        (["--schedule", "cosine", "--power", "2"], "--power has no effect with --schedule cosine: it is poly's"),
        (["--schedule", "constant", "--min-lr", "1e-5"], "--min-lr has no effect with --schedule constant"),
        (["--milestones", "0.5"], "--milestones has no effect with --schedule poly"),
        (["--schedule", "multistep"], "needs --milestones"),
        (["--schedule", "multistep", "--num-steps", "9", "--milestones", "5,9"], "--milestones 9 is not within"),
        (["--schedule", "multistep", "--milestones", "1.5"], "--milestones 1.5: expected whole steps"),
        (["--warmup", "300", "--num-steps", "200"], "--warmup 300 is not within the training of --num-steps 200"),
        (["--min-lr", "0.5"], "--min-lr 0.5 is not below --lr-g"),
        (["--lr-factor", "head"], "--lr-factor: expected NAME=NUMBER, not 'head'"),
        (["--lr-factor", "head=0"], "--lr-factor head=0: expected a number, above 0"),
        (["--lr-factor", "head=2", "head=3"], "--lr-factor: head is given twice"),
        (["--freeze", "head"], "--freeze head=1: expected backbone"),
        (["--freeze", "backbone=2"], "--freeze backbone=2: expected backbone"),
        (["--dataset", "camvid"], "needs --data-dir"),
        (["--dataset", "camvid", "--data-dir", "nowhere"], "no folder nowhere"),
        (["--lambda_pi", "3"], "unrecognized"),
        (["--num-step", "3"], "unrecognized"),
        (["--input-size", "512"], "expected 2 values with a comma between"),
        (["--input-size", "0,512"], "a whole number, 1 or more"),
        ([*ESPNET, "--precision", "bf16", "--device", "cpu"], "bfloat16 on the CPU"),
        (["--precision", "half"], "expected one of float32, bf16, fp16"),
        (["--batch-size", "0"], "a whole number, 1 or more"),
        (["--batch-size", "3", "--accumulate", "2"], "does not divide by 2"),
        (["--num-steps", "0"], "1 or more"),
        (["--num-steps", "1.5"], "a whole number"),
        (["--val-every", "0"], "1 or more"),
        (["--stop-at", "9", "--num-steps", "9"], "--stop-at 9 has no effect with --num-steps 9"),
        (["--log-every", "0"], "1 or more"),
        (["--save-every", "0"], "1 or more"),
        (["--seed", "-1"], "0 or more"),
        (["--momentum", "2"], "at most 1"),
        (["--lr-g", "0"], "above 0"),
        (["--lr-g", "nan"], "above 0"),
        (["--seed", "18446744073709551616"], "at most 18446744073709551615"),
        (["--scale-range", "0.01", "0.02"], "0.0625 or more"),
        (["--num-steps", "1" + 30 * "0"], "at most 2147483647"),
        (["--batch-size", 5000 * "9"], "999..."),
        (["--input-size", "1000000,1000000"], "at most 65536"),
        (["--num-workers", "100000"], "at most 1024"),
        (["--pi", "--T_ckpt_path", __file__, "--teacher-scale", "1e9"], "at most 16"),
        (["--also", "b=--lr-g 5"], "--also b: unrecognized arguments: --lr-g 5"),
        (["--also", "b=--pi --lr-g 5 --num-steps 7 --T_ckpt_path nowhere"], "--also b: unrecognized arguments"),
        (["--also", "b=--help"], "--also b: unrecognized arguments: --help"),
        (["--also", "b=pi"], "--also b: unrecognized arguments: pi"),
        (["--also", "b=--pi wight=3"], "--also b: --pi has no setting"),
        (["--also", "b=--num-labels 0"], "--also b: argument --num-labels: expected a whole number, 1 or more"),
        (["--also", "b=--unlabelled-share 0.5"], "--also b: --unlabelled-share has no effect"),
        (["--loss", "pi"], "expected a class in a file"),
        (["--loss", "nowhere.py:Mine"], "no file"),
        (["--config", "nowhere.json"], "--config: no file nowhere.json"),
        (["--config", __file__], "does not hold the options of a run"),
        (["--weight-decay", "-1"], "0 or more"),
        (["--aux-weight", "-0.4"], "0 or more"),
        (["--num-workers", "-1"], "0 or more"),
        (["--save-name", "../escape"], "the name of one folder"),
        (["--save-name", "."], "the name of one folder"),
        (["--save-name", ""], "the name of one folder"),
        (["--also", "cwd"], "expected NAME=FLAGS"),
        (["--preload", "--cache-dir", "x"], "both keep what was decoded"),
        (["--val-list", "nowhere.txt"], "--val-list: no file nowhere.txt"),
        (["--also", "../x="], "the name of one folder"),
        (["--also", "a=", "--also", "a="], "another student has this name"),
        (["--unlabelled-list", __file__], "teach nothing without a distillation method"),
        (
            ["--T_ckpt_path", __file__, "--kd", "--min-confidence", "0.9"],
            "--min-confidence has no effect without images without labels",
        ),
        (["--class-map", __file__], "--class-map has no effect without a teacher"),
        (["--teacher-scale", "0.5"], "--teacher-scale has no effect without a teacher"),
        (["--teacher-stride", "4"], "--teacher-stride has no effect without a teacher"),
        (["--teacher-precision", "bf16"], "--teacher-precision has no effect without a teacher"),
        (["--teacher-scale", "0"], "a number, above 0"),
        (["--pi", "--T_ckpt_path", __file__, "--class-map", "none.txt"], "--class-map: no file none.txt"),
        (["--unlabelled-share", "0.5"], "no effect without --unlabelled-list"),
        (["--unlabelled-share", "1", "--unlabelled-list", __file__], "leaves no labelled"),
        (["--list-methods", "magic"], "no method 'magic'"),
        (["--network", "unet"], "unknown network 'unet'; known: deeplabv3, "),
        (["--network", "nowhere/net.py:Net"], "no file"),
        (["--network", "torchvision:fcn_resnet50", "--network-options", "model=x"], "no setting 'model=x'"),
        (["--teacher-network", "pspnet"], "--teacher-network has no effect without a distillation method"),
        (["--pi", "--teacher-options", "pretrained=true"], "no effect without --teacher-network"),
        (["--pi", "--teacher-network", "pspnet", "--teacher-options", "q=3"], "pspnet has no setting 'q=3'"),
        (["--task-weight", "-1"], "0 or more"),
        (["--class-weights", "even"], "--class-weights: no file even, nor one of inverse, enet"),
        (["--label-smoothing", "2"], "at most 1"),
        (["--focal", "2", "--ohem", "min_kept=9"], "--focal and --ohem both choose hard pixels"),
        (
            ["--task-weight", "0", "--pi", "--teacher-network", "pspnet", "--dice", "1"],
            "--dice has no effect with --task-weight 0",
        ),
        (["--task-weight", "0"], "leaves nothing to learn from"),
        (
            ["--task-weight", "0", "--pi", "--teacher-network", "pspnet", "--aux-weight", "1"],
            "--aux-weight has no effect",
        ),
        (
            ["--task-weight", "0", "--pi", "--teacher-network", "pspnet", "--also", "a="],
            "--also a: --task-weight 0 leaves nothing",
        ),
    ],
)
def test_a_flag_that_cannot_be_obeyed_is_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_options(argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error
    assert error.startswith("train.py: error: ")
    assert len(error.splitlines()) == 1 or "it takes key=value of" in error


def test_an_unknown_setting_lists_keys_defaults_and_meaning(capsys):
    with pytest.raises(SystemExit):
        parse_options(["--pa", "lambda=1"])
    error = capsys.readouterr().err
    for words in ("weight=0.5", "pool_scale=0.5", "pooling window as a fraction", "void=keep"):
        assert words in error


def test_every_occurrence_of_a_method_is_a_term_with_a_name_of_its_own(teacher):
    words = "--pi weight=80 --cwd on=logits weight=3 --cwd on=context,layer3.pre weight=50 --pa --pa weight=1"
    terms = parse_options([*teacher, *words.split()]).objective.terms
    names = ["pi", "cwd_logits", "cwd_context", "cwd_layer3_pre", "pa_context_1", "pa_context_2"]
    assert [term.name for term in terms] == names
    assert [term.settings["weight"] for term in terms] == [80, 3, 50, 50, 0.5, 1]
    assert terms[0].settings["temperature"] == 1.0
    assert parse_options([*teacher, "--cwd", "norm=spatial"]).objective.terms[0].settings["norm"] == "spatial"


@pytest.mark.parametrize("flag", DISTILLATION_LOSSES)
def test_every_setting_says_what_it_means(flag, capsys):
    settings = settings_of(DISTILLATION_LOSSES[flag])
    assert {"weight", "on", "void", "warmup", "decay"} <= settings.keys()
    assert [name for name, setting in settings.items() if not setting.meaning] == []
    with pytest.raises(SystemExit) as stop:
        parse_options(["--list-methods", flag])
    assert not stop.value.code
    printed = capsys.readouterr().out
    assert all(name in printed for name in settings)


def test_the_methods_are_listed_a_line_each(capsys):
    with pytest.raises(SystemExit):
        parse_options(["--list-methods"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == sorted(f"--{flag}" for flag in DISTILLATION_LOSSES)
    assert all(len(line) <= 140 for line in lines)


def test_help_takes_two_screens_and_does_not_name_single_methods():
    text = make_parser(every=False).format_help()
    assert len(text.splitlines()) <= 80
    assert all(f"{flag_of(name)}" in text for name in FLAGS)
    assert "--fitnet" not in text


@pytest.mark.parametrize("name", DATASETS)
def test_recipes_belong_to_data_sets(name, tmp_path, teacher):
    recipe = DATASETS[name].RECIPE._asdict()
    words = ["--dataset", name, "--data-dir", str(tmp_path), *teacher, "--pi"]
    options = plain(parse_options(words))
    assert {key: options[key] for key in recipe} == json.loads(json.dumps(recipe))
    assert parse_options([*words, "--lr-g", "0.5"]).optimisation.lr_g == 0.5


def test_settings_of_a_network_are_its_own():
    options = parse_options([*ESPNET, "--network-options", "p=1", "q=3"])
    assert options.student.network_options == {"p": 1, "q": 3}


def test_names_of_runs_tell_runs_apart(teacher):
    changes = (
        [],
        ["--seed", "1"],
        ["--lr-g", "0.5"],
        [*teacher, "--pi"],
        [*teacher, "--pi", "weight=3"],
        [*teacher, "--pi", "--pa"],
        ["--network-options", "backbone=resnet50_v1s"],
    )
    names = [parse_options(change).run.save_name for change in changes]
    assert len(set(names)) == len(names)
    assert names[3].startswith("pspnet_scenes_pi_")
    assert parse_options(["--save-name", "none"]).run.save_name == "none"
    for same in (["--num-workers", "0"], ["--num-steps", "7"], ["--network", "pspnet"]):
        assert parse_options(same).run.save_name == names[0]


def test_the_name_of_a_run_is_one_folder_whatever_the_network(tmp_path):
    code = "from segdistill.network.espnet import ESPNet\nclass Net(ESPNet):\n    pass"
    (tmp_path / "net.py").write_text(code)
    for network in (f"{tmp_path}/net.py:Net", "torchvision:fcn_resnet50"):
        name = parse_options(["--network", network]).run.save_name
        assert not set(name) & set("/:\\")


def test_options_of_a_teacher_are_its_network_s():
    words = ["--pi", "--teacher-network", "torchvision:fcn_resnet50", "--teacher-options", "pretrained=true"]
    options = parse_options([*words, "--also", "alone="])
    assert options.teacher.teacher_options == {"pretrained": True}
    assert options.also[0].teacher == TeacherOptions()


def test_options_of_an_older_version_are_completed_by_defaults(teacher):
    options = plain(parse_options([*teacher, "--pi", "weight=3"]))
    older = json.loads(json.dumps(options))
    for name in (
        "teacher_options",
        "task_weight",
        "ema",
        "accumulate",
        "clip_norm",
        "val_every",
        "weight_decay",
        "momentum",
    ):
        del older[name]
    del older["terms"][0]["warmup"]
    assert complete(older) == options


def test_augmentations_have_an_order_and_a_value():
    assert parse_options(["--augment", "grey", "rotate=5"]).data.augment == ("rotate=5.0", "grey=0.2")
    data = parse_options(["--short-side", "100", "200"]).data
    assert (data.random_scale, data.scale_range, data.short_side) == (False, None, (100, 200))


def test_a_cache_of_an_older_version_is_still_that_of_the_default_augmentation():
    assert parse_options([]).data.augmentation.keys() == {"views", "input_size", "scale_range", "random_mirror"}
    assert "augment" in parse_options(["--augment", "grey"]).data.augmentation


def test_the_augmentations_are_listed(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_options(["--list-augmentations"])
    assert not stop.value.code
    assert "jitter=0.4" in capsys.readouterr().out


def test_terms_keep_their_order():
    assert [term.method for term in name_terms([("pa", {}), ("pi", {})])] == ["pa", "pi"]


def test_a_student_beside_has_labels_of_its_own_and_no_teacher_without_terms(teacher):
    words = ["--pi", "--num-labels", "20", "--unlabelled-share", "0.5", "--seed", "3", "--dataset", "scenes"]
    also = ["--also", "few=", "--also", "all=--num-labels none", "--also", "cwd=--cwd --unlabelled-share 0.25"]
    options = parse_options([*teacher, *words, *also])
    own = (
        ["--num-labels", "20"],
        [],
        [*teacher, "--cwd", "--num-labels", "20", "--unlabelled-share", "0.25"],
    )
    for other, name, flags in zip(options.also, ("few", "all", "cwd"), own, strict=True):
        assert other == parse_options([*flags, "--seed", "3", "--save-name", name])
    unlabelled = ["--num-labels", "20", "--unlabelled-share", "0.25", "--mix", "cutmix", "--min-confidence", "0.9"]
    (beside,) = parse_options([*teacher, "--pi", *unlabelled, "--also", "all=--pi --num-labels none"]).also
    assert (beside.teacher.mix, beside.teacher.min_confidence) == (None, None)


CONFIGURED = ["--lr-g", "0.003", "--ohem", "min_kept=9", "--scale-range", "0.5", "2", "--precision", "fp16"]
CONFIGURED += ["--augment", "jitter", "rotate=5", "--scale-step", "0.1"]
CONFIGURED += ["--lr-factor", "head=10", "--freeze", "backbone=0.5", "--schedule", "multistep", "--milestones", "0.5,9"]
CONFIGURED += [
    "--network",
    "espnet_c",
    "--network-options",
    "p=1",
    "--cwd",
    "on=logits",
    "--pi",
    "weight=3",
    "--preload",
]


@pytest.fixture
def config(tmp_path, teacher):
    """The options.json of a run, and the options that it was started with."""
    options = parse_options([*teacher, *CONFIGURED])
    (tmp_path / "options.json").write_text(json.dumps({**plain(options), "continued": []}))
    return tmp_path / "options.json", options


def test_a_run_is_a_file_that_can_be_fed_back(config):
    path, options = config
    assert parse_options(["--config", str(path)]) == options
    changed = parse_options(["--config", str(path), "--lr-g", "0.5", "--pa", "--random-scale", "false"])
    assert (changed.optimisation.lr_g, changed.data.scale_range) == (0.5, None)
    assert [term.name for term in changed.objective.terms] == ["pa"]
    assert changed.student == options.student
    assert parse_options(["--config", str(path), "--network", "pspnet"]).student.network_options == {}
    assert parse_options(["--config", str(path), "--schedule", "cosine"]).optimisation.milestones is None
    assert parse_options(["--config", str(path), "--short-side", "9", "9"]).data.scale_range is None


def test_a_config_keeps_its_share_of_images_without_labels_and_not_the_step_at_which_it_stopped(tmp_path, teacher):
    path, given = tmp_path / "options.json", [*teacher, "--pi", "--num-labels", "20", "--unlabelled-share", "0.25"]
    path.write_text(json.dumps(plain(parse_options([*given, "--stop-at", "5"]))))
    again = parse_options(["--config", str(path), "--num-labels", "40"])
    assert (again.data.num_labels, again.data.unlabelled_share, again.run.stop_at) == (40, 0.25, None)
    assert parse_options(["--config", str(path), "--num-labels", "none"]).data.unlabelled_share is None


def test_a_config_of_another_version(config, capsys):
    path, options = config
    stored = json.loads(path.read_text())
    del stored["ema"], stored["teacher_scale"], stored["terms"][0]["warmup"]
    path.write_text(json.dumps(stored))
    assert parse_options(["--config", str(path)]) == options
    for change, message in (({"sharpness": 3}, "holds sharpness, which is no option"), ({"lr_g": "fast"}, "--lr-g")):
        path.write_text(json.dumps(stored | change))
        with pytest.raises(SystemExit):
            parse_options(["--config", str(path)])
        error = capsys.readouterr().err
        assert message in error
        assert "options.json" in error


def test_a_config_runs_no_code_that_the_command_does_not_name(tmp_path, teacher, capsys):
    (tmp_path / "own.py").write_text(OWN_LOSS)
    name = f"{tmp_path}/own.py:Own"
    options = parse_options([*teacher, "--loss", name, "weight=2"])
    path = tmp_path / "options.json"
    path.write_text(json.dumps(plain(options)))
    with pytest.raises(SystemExit):
        parse_options(["--config", str(path)])
    assert "would run code" in capsys.readouterr().err
    assert parse_options(["--config", str(path), "--loss", name, "weight=2"]).objective == options.objective


OWN_LOSS = """
from segdistill.utils.losses import DistillationLoss


class Own(DistillationLoss):
    \"\"\"One of my own.\"\"\"

    def __init__(self, *, weight: float = 1.0, on: str = "logits", power: float = 2.0, **settings):
        super().__init__(weight=weight, on=on, **settings)
        self.power = power

    def forward(self, student, teacher, batch):
        first, second = self.maps(student, teacher)
        return (first - second).abs().pow(self.power).mean()
"""


def test_every_option_is_a_flag_that_says_what_it_is_for():
    text = make_parser().format_help()
    for name, field in FLAGS.items():
        assert f"  {flag_of(name)} " in text
        assert field.metadata["purpose"] in ("experiment", "bookkeeping", "input")
    assert {field.name for field in fields(TeacherOptions)} == TEACHING
    assert PLACES < BOOKKEEPING < FLAGS.keys()


def test_options_can_be_told_apart_by_hash():
    """Students of the same data share what is read: their data options are keys of a dictionary."""
    words = ["--scale-range", "0.5", "2", "--input-size", "64,64"]
    assert len({parse_options(words).data, parse_options(words).data}) == 1


def test_what_comes_with_the_package_is_found_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser, name = Parser(), "experiments/class_maps/cityscapes_to_camvid.txt"
    parser.add_argument("--class-map")
    assert "road -> road" in Path(parser.parse_args(["--class-map", name]).class_map).read_text()
    assert Path(parser.parse_args([f"--class-map={name}"]).class_map).is_file()
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()  # one's own goes first
    assert parser.parse_args(["--class-map", name]).class_map == name
