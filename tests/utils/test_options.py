import pytest

from segdistill.utils.options import parse_options

CAMVID = ["--dataset", "camvid", "--data-dir", "x"]
PSPNET = ["--network", "pspnet", "--backbone", "resnet18"]
ESPNET = ["--network", "espnet_c"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*PSPNET, "--lambda-pi", "3"], "--lambda-pi has no effect without --pi"),
        ([*PSPNET, "--pa", "false", "--pool-scale", "0.5"], "--pool-scale has no effect without --pa"),
        ([*PSPNET, "--ohem-thresh", "0.6"], "--ohem-thresh has no effect without --ohem"),
        ([*PSPNET, "--scale-range", "0.5", "2"], "--scale-range has no effect without --random-scale"),
        ([*PSPNET, "--pi"], "needs a teacher"),
        ([*PSPNET, "--T_ckpt_path", "t.pth"], "no effect without one of --pi, --pa, --ho"),
        (["--network", "pspnet"], "needs --backbone"),
        ([*PSPNET, "--q", "3"], "--q has no effect with pspnet"),
        ([*ESPNET, "--backbone", "resnet18"], "--backbone has no effect with espnet_c"),
        ([*ESPNET, "--checkpoint-blocks"], "--checkpoint-blocks has no effect with espnet_c"),
        ([*PSPNET, "--S_ckpt_path", "a", "--student-pretrain-model-imgnet", "b"], "give one"),
        ([*PSPNET, "--T_ckpt_path", "t", "--ho", "--adv-loss-type", "hinge", "--lambda-gp", "1"], "--lambda-gp"),
        ([*PSPNET, "--optimizer", "adam", "--momentum", "0.9"], "--momentum"),
        ([*PSPNET, "--dataset", "camvid"], "needs --data-dir"),
        ([*PSPNET, "--lambda_pi", "3"], "unrecognized"),
        ([*PSPNET, "--num-step", "3"], "unrecognized"),
        ([*PSPNET, "--pi", "maybe"], "true or false"),
        ([*PSPNET, "--input-size", "512"], "height,width"),
        ([*ESPNET, "--bf16", "--device", "cpu"], "bf16"),
    ],
)
def test_a_flag_that_would_be_ignored_or_contradicts_is_an_error(argv, message, capsys):
    with pytest.raises(SystemExit):
        parse_options(argv)
    assert message in capsys.readouterr().err


def test_switches_read_as_in_the_originals_scripts():
    for given, expected in (
        (["--pi"], ["pi"]),
        (["--pi", "True", "--pa", "False"], ["pi"]),
        (["--pa", "true"], ["pa"]),
    ):
        assert parse_options([*PSPNET, *given, "--T_ckpt_path", "t.pth"]).terms == expected


def test_defaults_given_in_full_are_accepted():
    assert parse_options([*PSPNET, "--pi", "--T_ckpt_path", "t", "--lambda-pi", "10"]).lambda_pi == 10


def test_runs_are_named_after_what_they_train():
    assert parse_options([*PSPNET, "--seed", "3"]).save_name == "pspnet_resnet18_scenes_alone_seed3"
    options = parse_options([*ESPNET, *CAMVID, "--pi", "--ho", "--T_ckpt_path", "t"])
    assert options.save_name == "espnet_c_camvid_pi+ho_seed0"
