"""The trainer: what it writes, that it resumes to the bit, and that nothing is lost when things go wrong."""

import fcntl
import json
import re
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from forks import Job
from PIL import Image

import train
from segdistill.dataset import CamVid
from segdistill.network import load_network
from segdistill.utils.learner import Learner
from segdistill.utils.losses import DISTILLATION_LOSSES
from segdistill.utils.run import StopSignal
from segdistill.utils.stopwatch import Waiting

STEPS = 6
# Settings where a method's defaults are no features of ESPNet-C, or larger than a test needs.
SETTINGS = {
    "ab": ["on=layer3.pre"],
    "overhaul": ["on=layer3.pre"],
    "psd": ["on=layer2+context+logits"],
    "cirkd-memory": ["pixel_queue=50", "region_queue=20"],
}
OF_CLASSES = [flag for flag in DISTILLATION_LOSSES if flag != "depth"]
TERMS = {
    "alone": [],
    "every": [word for flag in OF_CLASSES for word in (f"--{flag}", "weight=0.01", *SETTINGS.get(flag, []))],
    "ho-hinge": ["--ho", "kind=hinge", "optimizer=adam"],
    "two": ["--cwd", "on=logits", "--cwd", "on=layer2,layer3", "--fitnet", "on=layer2:layer3"],
}
ALL_TERMS = ["--pi", "--pa", "--ho", "--fitnet"]
PSPNET = ["--network", "pspnet"]
SMALL = ["--network", "deeplabv3plus", "--network-options", "backbone=mobilenetv2", "output_stride=16"]

pytestmark = pytest.mark.usefixtures("narrow_critic")


def arguments(tiny, folder, name, terms, *more):
    teacher = ["--T_ckpt_path", str(tiny / "teacher.pth")] if terms else []
    return [
        *("--dataset", "camvid", "--data-dir", str(tiny / "camvid"), "--input-size", "64,64"),
        *("--random-scale", "--random-mirror", "--batch-size", "2", "--num-steps", str(STEPS), "--num-workers", "0"),
        *("--log-every", "1", "--val-every", "4", "--snapshot-dir", str(folder), "--save-name", name),
        *(() if "--network" in more else ("--network", "espnet_c", "--network-options", "p=1", "q=1")),
        *(*teacher, *terms, *more),
    ]


def last(folder, name):
    return torch.load(folder / name / "last.pth", weights_only=True)


def assert_same(actual, expected, path="last.pth"):
    """Equal to the bit, through nested containers."""
    assert type(actual) is type(expected), path
    if isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected), path
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys(), path
        for key in expected:
            assert_same(actual[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), path
        for index, (left, right) in enumerate(zip(actual, expected, strict=True)):
            assert_same(left, right, f"{path}/{index}")
    else:
        assert actual == expected, path


def stop_before(monkeypatch, step):
    """Make the trainer die, without warning, when it is about to do ``step``."""
    at_step(monkeypatch, step, MemoryError())


def at_step(monkeypatch, step, then):
    """Call ``then`` with the learner, or raise it, before the update of ``step``."""
    update = Learner.update

    def interfere(learner):
        if round(learner.seen[0][2].progress * STEPS) == step - 1:
            if isinstance(then, BaseException):
                raise then
            then(learner)
        return update(learner)

    monkeypatch.setattr(Learner, "update", interfere)


def test_what_a_killed_run_left_half_written_is_removed(tiny, tmp_path):
    words = arguments(tiny, tmp_path, "run", [], "--save-every", "1", "--resume")
    train.main([*words, "--stop-at", "1"])
    for name in ("last.pth", "environment.json", "metrics.jsonl"):
        (tmp_path / "run" / f".{name}.0123abcd.tmp").write_text("{")
    train.main(words)
    assert not list((tmp_path / "run").glob(".*.tmp"))


SLOW = {"every": pytest.mark.slow}
EACH = [pytest.param(terms, id=name, marks=SLOW.get(name, ())) for name, terms in TERMS.items()]


@pytest.mark.parametrize("terms", EACH)
def test_a_run_that_died_twice_ends_with_the_same_state(tiny, tmp_path, monkeypatch, terms):
    train.main(arguments(tiny, tmp_path, "whole", terms))
    for step in (3, 5):
        with monkeypatch.context() as context:
            stop_before(context, step)
            with pytest.raises(MemoryError):
                train.main(arguments(tiny, tmp_path, "parts", terms, "--save-every", "1", "--resume"))
    train.main(arguments(tiny, tmp_path, "parts", terms, "--save-every", "1", "--resume"))
    assert_same(last(tmp_path, "parts"), last(tmp_path, "whole"))


# Every option of optimisation, augmentation, task loss and images without labels; two recipes, as some exclude others.
ADAMW = [
    *("--network", "segformer", "--network-options", "backbone=mit_b0", "width=16", "--optimizer", "adamw"),
    *("--lr-factor", "head=10", "adapters=2", "--layer-decay", "0.9", "--no-decay-norms", "--warmup", "2"),
    *("--schedule", "cosine", "--min-lr", "1e-5", "--freeze", "backbone=0.4", "--clip-norm", "1", "--ema", "0.9"),
    *("--augment", "rotate", "photometric", "jitter", "grey", "blur", "--teacher-view", "weak", "--scale-step", "0.1"),
    *("--max-class-share", "0.75", "--class-weights", "enet", "--label-smoothing", "0.1", "--focal", "2"),
    *("--dice", "0.5", "--lovasz", "0.5", "--views", "2"),
    *("--num-labels", "2", "--unlabelled-share", "0.5", "--batch-size", "4"),
    *("--mix", "classmix", "--min-confidence", "0.2"),
]
SGD = [
    *("--network", "segformer", "--network-options", "backbone=mit_b0", "width=16", "dropout=0.1"),
    *("--optimizer", "sgd", "--momentum", "0.8", "--lr-factor", "head=10", "--accumulate", "2", "--freeze", "backbone"),
    *("--schedule", "multistep", "--milestones", "2,0.7", "--gamma", "0.5", "--random-scale", "false"),
    *("--short-side", "48", "96", "--ohem", "min_kept=100", "--class-weights", "inverse"),
    *("--num-labels", "2", "--unlabelled-share", "0.5", "--batch-size", "8", "--mix", "cutmix"),
    *("--cwd", "on=context", "adapter=conv_bn_relu", "adapter_lr=0.01"),
]


@pytest.mark.parametrize("recipe", [pytest.param(ADAMW, id="adamw"), pytest.param(SGD, id="sgd")])
@pytest.mark.slow
def test_a_run_with_every_option_that_died_twice_ends_with_the_same_state(tiny, tmp_path, monkeypatch, recipe):
    """Before and after the backbone thaws, and with other loader processes."""
    terms = ["--pi", "--fitnet", "on=context:layer3"]
    train.main(arguments(tiny, tmp_path, "whole", terms, *recipe, "--num-workers", "2"))
    for step in (3, 5):
        with monkeypatch.context() as context:
            stop_before(context, step)
            with pytest.raises(MemoryError):
                train.main(arguments(tiny, tmp_path, "parts", terms, *recipe, "--save-every", "1", "--resume"))
    train.main(arguments(tiny, tmp_path, "parts", terms, *recipe, "--save-every", "1", "--resume"))
    assert_same(last(tmp_path, "parts"), last(tmp_path, "whole"))


@pytest.mark.slow
def test_a_compiled_run_that_died_ends_with_the_same_state(tiny, tmp_path, monkeypatch, traced):
    """Validation between, which is not compiled; the weights have the names that they have without."""
    train.main(arguments(tiny, tmp_path, "whole", ["--pi"], "--compile"))
    with monkeypatch.context() as context:
        stop_before(context, 5)
        with pytest.raises(MemoryError):
            train.main(arguments(tiny, tmp_path, "parts", ["--pi"], "--compile", "--resume"))
    train.main(arguments(tiny, tmp_path, "parts", ["--pi"], "--compile", "--resume"))
    assert_same(last(tmp_path, "parts"), last(tmp_path, "whole"))
    train.main(arguments(tiny, tmp_path, "plain", ["--pi"]))
    assert last(tmp_path, "plain")["student"].keys() == last(tmp_path, "whole")["student"].keys()


@pytest.mark.slow
def test_two_processes_with_every_option_that_adds_up_are_one(tiny, tmp_path):
    """Not those whose mean is over what a process sees, Dice, Lovasz and --min-confidence, and no dropout."""
    words = ["--network", "segformer", "--network-options", "backbone=mit_b0", "width=16", "drop_path=0"]
    words += ["--norm", "sync_batch_norm", "--optimizer", "sgd", "--lr-factor", "head=10", "--warmup", "2"]
    words += ["--schedule", "cosine", "--freeze", "backbone=0.4", "--clip-norm", "1", "--ema", "0.9", "--views", "2"]
    words += ["--augment", "rotate", "jitter", "--teacher-view", "weak", "--max-class-share", "0.75", "--focal", "2"]
    words += ["--class-weights", "enet", "--label-smoothing", "0.1", "--device", "cpu", "--mix", "cutmix"]
    words += ["--num-labels", "2", "--unlabelled-share", "0.5", "--batch-size", "4", "--no-decay-norms"]
    for ranks in (1, 2):
        command = arguments(tiny, tmp_path, str(ranks), ["--kd", "void=mask"], *words)
        with Job(command, tmp_path / f"{ranks}.log", ranks=ranks) as job:
            assert job.wait() == 0, job.log.read_text()
    one, two = (last(tmp_path, name) for name in "12")
    for part in ("student", "average"):
        torch.testing.assert_close(two[part], one[part], rtol=1e-3, atol=1e-5)


def test_a_run_that_stops_at_a_step_goes_on_to_the_same_state(tiny, tmp_path):
    """Of two beside each other, one stops for good: its steps are saved, the other is what it would be without it."""
    train.main(arguments(tiny, tmp_path, "whole", ["--pi"]))
    parts = arguments(tiny, tmp_path, "parts", ["--pi"], "--resume")
    assert train.main([*parts, "--also", "dropped=--cwd", "--stop-at", "4"]) == 0
    assert last(tmp_path, "parts")["step"] == last(tmp_path, "dropped")["step"] == 4
    rows = [json.loads(line) for line in (tmp_path / "dropped/metrics.jsonl").read_text().splitlines()]
    assert "val/mean_iou" in rows[-1]
    before = (tmp_path / "parts/metrics.jsonl").read_text()
    train.main([*parts, "--stop-at", "4"])
    assert (tmp_path / "parts/metrics.jsonl").read_text() == before, "it is there already"
    train.main(parts)
    assert_same(last(tmp_path, "parts"), last(tmp_path, "whole"))


def test_a_teacher_may_see_less_than_the_student(tiny, tmp_path):
    """Its cached answers to the weak view are those that it gives without photometric augmentation."""
    cached = ["--pi", "--views", "1", "--teacher-cache", str(tmp_path / "cache")]
    train.main(arguments(tiny, tmp_path, "plain", cached))
    train.main(arguments(tiny, tmp_path, "weak", cached, "--augment", "jitter=1", "grey=1", "--teacher-view", "weak"))
    train.main(arguments(tiny, tmp_path, "strong", cached, "--augment", "jitter=1", "grey=1"))
    maps = {
        (key.get("augment") is not None, "teacher_view" in key): next(path.parent.glob("*.maps")).read_bytes()
        for path in tmp_path.glob("cache/*/key.json")
        for key in [json.loads(path.read_text())]
    }
    assert maps[True, True] == maps[False, False] != maps[True, False]


def test_loader_processes_do_not_change_the_run(tiny, tmp_path):
    train.main(arguments(tiny, tmp_path, "none", []))
    train.main(arguments(tiny, tmp_path, "two", [], "--num-workers", "2"))
    assert_same(last(tmp_path, "two"), last(tmp_path, "none"))


def start(tiny, folder, name, *more):
    return Job(arguments(tiny, folder, name, ALL_TERMS, "--save-every", "1", *more), folder / f"{name}.log")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_the_step_it_interrupts(tiny, tmp_path, number):
    metrics = tmp_path / "run" / "metrics.jsonl"
    with start(tiny, tmp_path, "run", "--num-steps", "500", "--save-every", "1000", "--num-workers", "1") as job:
        while job.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= 2):
            time.sleep(0.02)
        job.kill(number)
        assert job.wait() == 128 + number, job.log.read_text()
    assert last(tmp_path, "run")["step"] == rows_of(tmp_path / "run")[-1]["step"] >= 2
    assert "--resume" in job.log.read_text()


def test_a_hangup_that_nohup_ignores_stays_ignored(monkeypatch):
    handlers = {signal.SIGHUP: signal.SIG_IGN}
    monkeypatch.setattr(signal, "getsignal", lambda number: handlers.get(number, signal.SIG_DFL))
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    StopSignal()
    assert handlers[signal.SIGHUP] == signal.SIG_IGN
    assert handlers[signal.SIGTERM] != signal.SIG_DFL


def test_waiting_for_data_is_warned_of_once_with_a_remedy(tiny, tmp_path, monkeypatch, caplog):
    class Slow(Waiting):
        def __next__(self):
            self.seconds += 1000
            return super().__next__()

    monkeypatch.setattr(train, "Waiting", Slow)
    train.main(arguments(tiny, tmp_path, "run", []))
    (warning,) = [text for text in caplog.messages if "waits for data" in text]
    assert re.search(r"run waits for data in \d+ % of its time: give more --num-workers than \d+ ", warning)
    assert "--cache-dir" in warning


@pytest.mark.curves
def test_a_run_leaves_what_it_takes_to_read_it(tiny, tmp_path):
    train.main(arguments(tiny, tmp_path, "run", ["--pi"]))
    run = tmp_path / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if "val/mean_iou" in row] == [4, 6]
    assert {"loss/cross_entropy", "loss/pi", "share/pi", "lr", "images_per_second"} <= rows[0].keys()
    assert all(rows[0][f"cost/{name}"] > 0 for name in ("step", "teacher", "saved"))
    assert all(0 < row["cost/waiting"] < 1 for row in rows if "loss" in row)
    (term,) = json.loads((run / "options.json").read_text())["terms"]
    assert (term["name"], term["method"], term["weight"], term["void"]) == ("pi", "pi", 10.0, "keep")
    assert json.loads((run / "environment.json").read_text())["torch"] == torch.__version__
    record = json.loads((run / "teacher.json").read_text())
    assert record["mean_iou"] == 1.0
    assert record["crops"]["num_crops"] == 4
    assert 0.1 < record["crops"]["mean_iou"] < 1  # it labelled the images, not the crops
    assert list(run.glob("events.out.tfevents.*"))
    curves = re.search(r"\((\S+\.png)\)", (run / "report.md").read_text())[1]
    assert Image.open(run / curves).size[0] > 100
    network, report = load_network(run / "best.pth")
    assert (network.num_classes, report.family) == (11, "segdistill")
    assert not any("discriminator" in key or "teacher" in key for key in network.state_dict())


def rows_of(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def test_the_total_is_the_weighted_sum_of_the_terms(tiny, tmp_path):
    terms = ["--pi", "weight=3", "--pa", "on=layer3", "--cwd", "weight=2", "decay=0.5"]
    train.main(arguments(tiny, tmp_path, "run", terms))
    first, *_, last_row = rows_of(tmp_path / "run")
    expected = first["loss/cross_entropy"] + 3 * first["loss/pi"] + 0.5 * first["loss/pa"] + 2 * first["loss/cwd"]
    assert first["loss"] == pytest.approx(expected, rel=1e-5)
    assert first["share/pi"] == pytest.approx(3 * first["loss/pi"] / first["loss"], rel=1e-5)
    # Five of six steps lie behind the last one: a third of the decay is left.
    faded = last_row["loss"] - last_row["loss/cross_entropy"] - 3 * last_row["loss/pi"] - 0.5 * last_row["loss/pa"]
    assert faded == pytest.approx(2 * last_row["loss/cwd"] / 3, rel=1e-3)


def bad_term(learner):
    learner.terms[0]["pi"] = learner.terms[0]["pi"] * float("nan")


def bad_gradient(learner):
    learner.objective.student.level1.conv.weight.grad[0] = float("inf")


@pytest.mark.parametrize(
    ("fault", "named"), [(bad_term, "pi"), (bad_gradient, r"gradient of student\.level1\.conv\.weight")]
)
def test_an_update_that_is_not_finite_is_refused_and_named(tiny, tmp_path, monkeypatch, fault, named):
    at_step(monkeypatch, 4, fault)
    with pytest.raises(FloatingPointError, match=rf"step 4: {named} not finite.*--save-name"):
        train.main(arguments(tiny, tmp_path, "run", ["--pi"], "--save-every", "1"))
    assert last(tmp_path, "run")["step"] == 3


def bad_weight(learner):
    torch.nn.init.constant_(learner.objective.student.level1.conv.weight, float("inf"))


def bad_buffer(learner):
    learner.objective.student.b1.bn.running_var[0] = float("nan")


def bad_momentum(learner):
    learner.optimizer.state[learner.optimizer.param_groups[0]["params"][0]]["exp_avg_sq"][0] = float("nan")


def bad_critic(learner):
    learner.objective.losses["ho"].discriminator.last.bias.data[0] = float("nan")


@pytest.mark.slow
def test_nothing_that_is_not_finite_is_ever_saved(tiny, tmp_path, monkeypatch):
    more = ["--save-every", "1", "--resume"]
    train.main(arguments(tiny, tmp_path, "whole", ["--ho"], *more))
    for step, fault in enumerate((bad_weight, bad_buffer, bad_momentum, bad_critic), 3):
        with monkeypatch.context() as context:
            at_step(context, step, fault)
            with pytest.raises(FloatingPointError, match=rf"step {step}|not finite, so .*last\.pth is not written"):
                train.main(arguments(tiny, tmp_path, "run", ["--ho"], *more))
        assert last(tmp_path, "run")["step"] == step - 1, fault
    train.main(arguments(tiny, tmp_path, "run", ["--ho"], *more))
    assert_same(last(tmp_path, "run"), last(tmp_path, "whole"))


def test_a_critic_that_diverges_leaves_a_run_that_can_be_continued(tiny, tmp_path):
    with pytest.raises(FloatingPointError, match=r"ho not finite|--ho lr="):
        train.main(arguments(tiny, tmp_path, "run", ["--ho", "lr=1e18"], "--save-every", "1"))
    assert last(tmp_path, "run")["step"] < STEPS


def test_adapters_train_and_stay_out_of_the_student(tiny, tmp_path):
    terms = ["--cwd", "on=layer2:layer3", "--fitnet", "on=layer3"]
    train.main(arguments(tiny, tmp_path, "run", terms, "--save-every", "1", "--num-steps", "1"))
    before = last(tmp_path, "run")["losses"]
    train.main(arguments(tiny, tmp_path, "run", terms, "--save-every", "1", "--resume", "--num-steps", "2"))
    after = last(tmp_path, "run")["losses"]
    assert before.keys() == {"cwd.adapter.weight", "fitnet.adapter.weight"}
    assert not any(torch.equal(before[key], after[key]) for key in before)
    network, _ = load_network(tmp_path / "run" / "best.pth")
    assert not any("adapter" in key for key in network.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["--ema", "0.5"],
        ["--clip-norm", "0.1"],
        ["--accumulate", "2"],
        ["--precision", "fp16"],
        [*SMALL, "--precision", "bf16"],
    ],
)
def test_the_mechanics_of_a_step_resume_to_the_bit(tiny, tmp_path, monkeypatch, more):
    train.main(arguments(tiny, tmp_path, "whole", ALL_TERMS, *more))
    with monkeypatch.context() as context:
        stop_before(context, 4)
        with pytest.raises(MemoryError):
            train.main(arguments(tiny, tmp_path, "parts", ALL_TERMS, *more, "--save-every", "1"))
    train.main(arguments(tiny, tmp_path, "parts", ALL_TERMS, *more, "--save-every", "1", "--resume"))
    assert_same(last(tmp_path, "parts"), last(tmp_path, "whole"))


def test_a_finished_run_is_not_overwritten_and_its_options_do_not_change_silently(tiny, tmp_path):
    train.main(arguments(tiny, tmp_path, "run", []))
    with pytest.raises(FileExistsError, match="--resume"):
        train.main(arguments(tiny, tmp_path, "run", []))
    with pytest.raises(ValueError, match=r"lr_g 0\.003, now 0\.5"):
        train.main(arguments(tiny, tmp_path, "run", [], "--resume", "--lr-g", "0.5"))
    with pytest.raises(ValueError, match="beyond --num-steps 3"):
        train.main(arguments(tiny, tmp_path, "run", [], "--resume", "--num-steps", "3"))
    assert train.main(arguments(tiny, tmp_path, "run", [], "--resume")) == 0


def test_a_run_may_be_moved_renamed_and_continued_for_longer(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "before")
    train.main(arguments(tmp_path / "before", tmp_path, "run", ["--pi"]))
    (tmp_path / "before").rename(tmp_path / "after")
    (tmp_path / "run").rename(tmp_path / "renamed")
    command = arguments(tmp_path / "after", tmp_path, "renamed", ["--pi"], "--resume", "--num-steps", "8")
    assert train.main(command) == 0
    assert last(tmp_path, "renamed")["step"] == 8
    options = json.loads((tmp_path / "renamed/options.json").read_text())
    assert options["continued"] == [{"step": 6, "num_steps": 8}]
    assert "continued" in (tmp_path / "renamed/report.md").read_text()


def test_a_run_is_not_continued_on_other_images(tiny, tmp_path, few_labels):
    train.main(arguments(tiny, tmp_path, "run", [], *few_labels[:2], "--num-steps", "2"))
    with pytest.raises(ValueError, match="not the training images and labels"):
        train.main(arguments(tiny, tmp_path, "run", [], "--num-steps", "3", "--resume"))


@pytest.mark.parametrize("folder", ["train", "trainannot"])
def test_a_run_is_not_continued_on_edited_images_or_labels(tiny, tmp_path, folder):
    shutil.copytree(tiny, tmp_path / "data")
    command = arguments(tmp_path / "data", tmp_path, "run", [], "--num-steps", "2")
    train.main(command)
    path = tmp_path / "data/camvid" / folder / "1.png"
    pixels = np.array(Image.open(path))
    pixels[32, 32] = pixels[32, 33]
    pixels[32, 33] = 11 - pixels[32, 32]
    Image.fromarray(pixels).save(path)
    with pytest.raises(ValueError, match="not the training images and labels"):
        train.main([*command, "--resume"])


def test_a_run_is_not_continued_with_other_contents_of_its_files(tiny, tmp_path):
    """Of the files that options name: what they say is the experiment, not where they lie."""
    weights, validation, code = (tmp_path / name for name in ("weights.txt", "val.txt", "own.py"))
    weights.write_text("".join(f"{name} 1\n" for name in CamVid.CLASSES))
    validation.write_text("val/0.png valannot/0.png\nval/1.png valannot/1.png\n")
    code.write_text("from segdistill.utils.losses import PixelWise\n\n\nclass Own(PixelWise):\n    pass\n")
    words = ["--class-weights", str(weights), "--val-list", str(validation), "--loss", f"{code}:Own", "weight=1"]
    command = arguments(tiny, tmp_path, "run", ["--pi"], *words, "--num-steps", "2", "--resume")
    train.main(command)
    for path, refusal in ((weights, "class weights"), (validation, "validation images"), (code, "code of")):
        before = path.read_text()
        path.write_text(before.replace("sky 1", "sky 2").replace("val/1.png valannot/1.png\n", "") + "\n")
        with pytest.raises(ValueError, match=f"not the {refusal}.* was started with"):
            train.main([*command, "--num-steps", "3"])
        path.write_text(before)
    moved = validation.rename(tmp_path / "moved.txt")
    assert train.main([*command, "--num-steps", "3", "--val-list", str(moved)]) == 0


def test_a_run_is_not_continued_with_other_meanings_of_label_values(tiny, tmp_path):
    for kind, source in (("images", ""), ("labels", "annot")):
        for split in ("train", "val"):
            shutil.copytree(tiny / "camvid" / f"{split}{source}", tmp_path / "own" / kind / split)
    lines = [f"{i} {i},0,0 class{i}\n" for i in range(11)] + ["11 0,0,9 ignore\n"]
    (tmp_path / "own/classes.txt").write_text("".join(lines))
    command = arguments(
        tiny, tmp_path, "run", [], "--dataset", "folder", "--data-dir", str(tmp_path / "own"), "--resume"
    )
    train.main([*command, "--num-steps", "2"])
    lines[3:5] = [f"3 {4},0,0 class4\n", f"4 {3},0,0 class3\n"]
    (tmp_path / "own/classes.txt").write_text("".join(lines))
    with pytest.raises(ValueError, match="not the classes that"):
        train.main([*command, "--num-steps", "3"])


def test_an_option_that_the_run_did_not_know_has_its_default(tiny, tmp_path):
    train.main(arguments(tiny, tmp_path, "run", ["--pi"], "--num-steps", "2"))
    path = tmp_path / "run/options.json"
    options = json.loads(path.read_text())
    del options["clip_norm"], options["power"], options["terms"][0]["decay"]
    path.write_text(json.dumps(options))
    assert train.main(arguments(tiny, tmp_path, "run", ["--pi"], "--resume", "--num-steps", "3")) == 0
    with pytest.raises(ValueError, match=r"power 0\.9, now 0\.5"):
        train.main(arguments(tiny, tmp_path, "run", ["--pi"], "--resume", "--num-steps", "3", "--power", "0.5"))


def test_a_run_that_died_before_its_first_checkpoint_leaves_nothing_behind(tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as context:
        stop_before(context, 3)
        with pytest.raises(MemoryError):
            train.main(arguments(tiny, tmp_path, "run", ["--pi"]))
    assert len(rows_of(tmp_path / "run")) == 2
    train.main(arguments(tiny, tmp_path, "run", [], "--lr-g", "0.5"))
    assert [row["step"] for row in rows_of(tmp_path / "run")] == list(range(1, STEPS + 1))
    assert not any("loss/pi" in row for row in rows_of(tmp_path / "run"))
    assert not (tmp_path / "run/teacher.json").exists()
    assert len(list((tmp_path / "run").glob("events*"))) == 1


def test_a_run_that_is_continued_by_another_number_of_processes_records_it(tiny, tmp_path):
    folder = tmp_path / "run"
    train.main(arguments(tiny, tmp_path, "run", []))

    def continued(now, steps):
        record = json.loads((folder / "environment.json").read_text()) | {"processes": now}
        (folder / "environment.json").write_text(json.dumps(record))  # as if so many had trained until here
        train.main([*arguments(tiny, tmp_path, "run", []), "--num-steps", str(steps), "--resume"])
        return json.loads((folder / "environment.json").read_text()).get("processes_before")

    assert continued(1, STEPS + 1) is None
    before = [{"step": STEPS + 1, "processes": 2}]
    assert continued(2, STEPS + 1) == before
    assert continued(4, STEPS + 2) == before, "those who did no step are forgotten"
    assert continued(3, STEPS + 2) == [*before, {"step": STEPS + 2, "processes": 3}]


def test_rows_that_a_resumed_run_repeats_are_there_once(tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as context:
        stop_before(context, 5)
        with pytest.raises(MemoryError):
            train.main(arguments(tiny, tmp_path, "run", [], "--save-every", "2"))
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    train.main(arguments(tiny, tmp_path, "run", [], "--save-every", "2", "--resume"))
    assert [row["step"] for row in rows_of(tmp_path / "run")] == list(range(1, STEPS + 1))


def test_weights_without_a_run_are_not_overwritten(tiny, tmp_path):
    train.main(arguments(tiny, tmp_path, "run", []))
    (tmp_path / "run/last.pth").unlink()
    for more in ([], ["--resume"]):
        with pytest.raises(FileExistsError, match=r"best\.pth has no last\.pth"):
            train.main(arguments(tiny, tmp_path, "run", [], *more))


def test_two_runs_do_not_share_a_folder(tiny, tmp_path):
    (tmp_path / "run").mkdir()
    with (tmp_path / "run/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another process is training"):
            train.main(arguments(tiny, tmp_path, "run", []))
    assert train.main(arguments(tiny, tmp_path, "run", [])) == 0


def test_a_start_that_fails_leaves_no_folder(tiny, tmp_path):
    with pytest.raises(ValueError, match="has no feature layer9"):
        train.main(arguments(tiny, tmp_path, "run", ["--pa", "on=layer9"]))
    with pytest.raises(ValueError, match="--aux-weight has no effect with espnet_c"):
        train.main(arguments(tiny, tmp_path, "run", [], "--aux-weight", "0.4"))
    for words in (["--pi", "temperature=0"], ["--pa", "pool_scale=2"], ["--pi", "weight=-1"], ["--cwd", "decay=2"]):
        with pytest.raises(ValueError, match=words[1].split("=")[0]):
            train.main(arguments(tiny, tmp_path, "run", words))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_labels_is_an_error(tiny, tmp_path, split):
    shutil.copytree(tiny, tmp_path / "data")
    for path in (tmp_path / "data/camvid" / f"{split}annot").iterdir():
        Image.new("L", (64, 64), 11).save(path)
    with pytest.raises(ValueError, match="void throughout" if split == "train" else "no pixel of 2 images"):
        train.main(arguments(tmp_path / "data", tmp_path, "run", []))


def test_a_run_is_not_continued_with_another_teacher(tiny, tmp_path):
    teacher = tmp_path / "teacher.pth"
    shutil.copy(tiny / "teacher.pth", teacher)
    command = arguments(tiny, tmp_path, "run", [], "--pi", "--T_ckpt_path", str(teacher), "--resume")
    train.main(command)
    (tmp_path / "run/teacher.json").unlink()
    content = torch.load(teacher, weights_only=True)
    torch.save({**content, "note": "another file"}, teacher)
    with pytest.raises(ValueError, match="not the teacher"):
        train.main(command)


def test_a_teacher_of_other_classes_trains_the_student_that_its_class_map_says(tiny, tmp_path):
    """The teacher under other names, with a class more that becomes none: it teaches the same."""
    content = torch.load(tiny / "teacher.pth", weights_only=True)
    classifier = content["state_dict"]["classifier.conv.weight"]
    content["state_dict"]["classifier.conv.weight"] = torch.cat([classifier, classifier[:1]])
    content["config"]["num_classes"] = 12
    names = [f"class {i}" for i in range(12)]
    torch.save({**content, "classes": names}, tmp_path / "other.pth")
    class_map = tmp_path / "classes.txt"
    class_map.write_text("".join(f"{name} -> {i if i < 11 else 'none'}\n" for i, name in enumerate(names)))
    teacher = ["--T_ckpt_path", str(tmp_path / "other.pth")]
    with pytest.raises(ValueError, match="--class-map"):
        train.main(arguments(tiny, tmp_path, "none", [], "--pi", *teacher))
    mapped = arguments(tiny, tmp_path, "mapped", [], "--pi", *teacher, "--class-map", str(class_map))
    train.main(mapped)
    train.main(arguments(tiny, tmp_path, "plain", ["--pi"]))
    losses = [[row["loss"] for row in rows_of(tmp_path / name)] for name in ("mapped", "plain")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert json.loads((tmp_path / "mapped/teacher.json").read_text())["class_map"] == [*range(11), None]
    class_map.write_text(class_map.read_text().replace("none", "10"))
    with pytest.raises(ValueError, match="not the class map that"):
        train.main([*mapped, "--resume"])


@pytest.mark.slow
def test_without_a_terminal_progress_is_plain_lines(tiny, tmp_path):
    with start(tiny, tmp_path, "run") as job:
        assert job.wait() == 0
    error = job.log.read_text()
    assert "\r" not in error
    assert re.search(r"^step 6 of 6: loss [\d.]+, mIoU [\d.]+, 0:00:00 left$", error, re.M)


BESIDE = {"main": ["--pi", "--ho"], "alone": [], "mgd": ["--mgd", "on=layer3", "--cwd"]}


def test_every_student_of_a_process_prints_its_score(tiny, tmp_path, caplog):
    caplog.set_level("INFO")
    train.main(arguments(tiny, tmp_path, "main", ["--pi"], "--also", "alone=", "--also", "cwd=--cwd"))
    scores = r"mIoU main \d+\.\d\d, alone \d+\.\d\d, cwd \d+\.\d\d"
    assert re.search(rf"step 4 of 6: loss [\d.]+, {scores}, ", caplog.text)


def together(tiny, folder, *more):
    also = [f"--also={name}={' '.join(terms)}" for name, terms in BESIDE.items() if name != "main"]
    return arguments(tiny, folder, "main", BESIDE["main"], *also, *more)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [[], ["--accumulate", "2", "--ema", "0.5", "--batch-size", "4"]], ids=["plain", "parts"]
)
def test_students_of_one_process_are_what_they_are_alone(tiny, tmp_path, monkeypatch, more):
    for name, terms in BESIDE.items():
        train.main(arguments(tiny, tmp_path / "own", name, terms, *more))
    with monkeypatch.context() as context:
        stop_before(context, 4)
        with pytest.raises(MemoryError):
            train.main(together(tiny, tmp_path / "beside", *more, "--save-every", "1"))
    # One of them was saved a step later than the others.
    train.main(arguments(tiny, tmp_path / "beside", "alone", [], *more, "--save-every", "1", "--resume"))
    train.main(together(tiny, tmp_path / "beside", *more, "--save-every", "1", "--resume"))
    for name in BESIDE:
        assert_same(last(tmp_path / "beside", name), last(tmp_path / "own", name))
        options, own = (json.loads((tmp_path / side / name / "options.json").read_text()) for side in ("beside", "own"))
        assert {k: v for k, v in options.items() if own[k] != v}.keys() <= {"snapshot_dir", "save_every", "resume"}
        assert (tmp_path / "beside" / name / "teacher.json").exists() == bool(BESIDE[name])
    costs = {name: rows_of(tmp_path / "beside" / name)[-1] for name in BESIDE}
    assert "cost/teacher" not in costs["alone"]
    assert costs["main"]["cost/teacher"] == costs["mgd"]["cost/teacher"] > 0
    assert costs["main"]["cost/saved"] > costs["alone"]["cost/saved"] > 0


def test_students_of_other_labels_are_what_they_are_alone(tiny, tmp_path, monkeypatch):
    """They share what is decoded, not the batches; one of them has a teacher."""
    more = ["--batch-size", "4", "--save-every", "1", "--preload"]
    few = ["--num-labels", "2"]
    own = {"main": [*few, "--unlabelled-share", "0.5"], "few": few, "all": []}
    for name, flags in own.items():
        train.main(arguments(tiny, tmp_path / "own", name, ["--pi"] if name == "main" else [], *flags, *more))
    also = ["--also", "few=", "--also", "all=--num-labels none"]
    command = arguments(tiny, tmp_path / "beside", "main", ["--pi"], *own["main"], *also, *more)
    with monkeypatch.context() as context:
        stop_before(context, 4)
        with pytest.raises(MemoryError):
            train.main(command)
    # One of them was saved a step later than the others.
    train.main(arguments(tiny, tmp_path / "beside", "all", [], *more, "--resume", "--num-steps", "6"))
    train.main([*command, "--resume"])
    for name in own:
        assert_same(last(tmp_path / "beside", name), last(tmp_path / "own", name))
        assert (tmp_path / "beside" / name / "teacher.json").exists() == (name == "main")
        options, alone = (
            json.loads((tmp_path / side / name / "options.json").read_text()) for side in ("beside", "own")
        )
        assert {k for k, v in options.items() if alone[k] != v} <= {"snapshot_dir", "resume"}


def test_a_loss_in_a_file_of_one_s_own(tiny, tmp_path, capsys):
    code = """from segdistill.utils.losses import DistillationLoss
from beside_it import power


class Own(DistillationLoss):
    def __init__(self, *, weight: float = 1.0, on: str = "logits", scale: float = 2.0, **settings):
        super().__init__(weight=weight, on=on, **settings)
        self.scale = scale

    def forward(self, student, teacher, batch):
        first, second = self.maps(student, teacher)
        return self.scale * power(first - second).mean()
"""
    (tmp_path / "own.py").write_text(code)
    (tmp_path / "beside_it.py").write_text("def power(x):\n    return x.square()\n")
    terms = ["--loss", f"{tmp_path}/own.py:Own", "scale=3", "--pi"]
    train.main(arguments(tiny, tmp_path, "run", terms, "--num-steps", "2"))
    train.main(arguments(tiny, tmp_path, "run", terms, "--num-steps", "3", "--resume"))
    assert all(row["loss/Own"] > 0 for row in rows_of(tmp_path / "run"))
    assert "Own" in (tmp_path / "run/report.md").read_text()
    with pytest.raises(SystemExit):
        train.main(arguments(tiny, tmp_path, "other", ["--loss", f"{tmp_path}/own.py:Own", "scala=3"]))
    assert "it takes key=value of" in capsys.readouterr().err


def test_a_batch_of_one_that_batch_norm_cannot_take_is_refused_before_training(tiny, tmp_path, caplog):
    caplog.set_level("INFO")
    for more in (["--batch-size", "1", "--check"], ["--batch-size", "2", "--accumulate", "2"]):
        with pytest.raises(ValueError, match=r"pspnet normalises .* must leave 2 images .*espnet_c"):
            train.main(arguments(tiny, tmp_path, "run", [], *PSPNET, *more))
    assert "fit together" not in caplog.text
    assert train.main(arguments(tiny, tmp_path, "run", [], "--batch-size", "1", "--check")) == 0
    assert "options, data and networks fit together" in caplog.messages[-1]


@pytest.fixture
def few_labels(tiny, tmp_path):
    """Arguments for two labelled images of the four, the others without labels."""
    names = sorted(path.name for path in (tiny / "camvid/train").iterdir())
    (tmp_path / "few.txt").write_text("".join(f"train/{name} trainannot/{name}\n" for name in names[:2]))
    (tmp_path / "rest.txt").write_text("".join(f"train/{name}\n" for name in names[2:]))
    return ["--data-list", str(tmp_path / "few.txt"), "--unlabelled-list", str(tmp_path / "rest.txt")]


def test_images_without_labels_are_distilled_and_no_more(tiny, tmp_path, few_labels, monkeypatch):
    batches = []
    accumulate = Learner.accumulate

    def watch(learner, batch, output):
        batches.append(batch)
        return accumulate(learner, batch, output)

    monkeypatch.setattr(Learner, "accumulate", watch)
    more = ["--batch-size", "4", "--unlabelled-share", "0.25"]
    train.main(arguments(tiny, tmp_path, "run", ["--pi", "void=mask"], *few_labels, *more))
    assert len(batches) == STEPS
    for batch in batches:
        void = (batch.labels == 255).flatten(1).all(1)
        assert void.tolist() == [False, False, False, True]
        assert (batch.keys[:, 1] >= 2).tolist() == void.tolist()
        assert batch.num_kept == batch.num_valid + 64 * 64
    with pytest.raises(SystemExit):
        train.main(arguments(tiny, tmp_path, "other", [], *few_labels, *more))


@pytest.mark.parametrize(("terms", "unlabelled"), [([], 0), (["--pi"], 2)])
def test_few_labels_are_kept_and_the_rest_is_distilled(tiny, tmp_path, monkeypatch, terms, unlabelled):
    batches = []
    accumulate = Learner.accumulate
    monkeypatch.setattr(Learner, "accumulate", lambda *given: (batches.append(given[1]), accumulate(*given)))
    more = ["--unlabelled-share", "0.5"] if unlabelled else []
    train.main(arguments(tiny, tmp_path, "run", terms, "--num-labels", "2", *more, "--batch-size", "4"))
    for batch in batches:
        labelled = (batch.labels != 255).flatten(1).any(1)
        assert labelled.tolist() == [True] * (4 - unlabelled) + [False] * unlabelled
        assert ((batch.keys[:, 1] < 2) == labelled).all()


def test_the_kept_labels_are_spread_evenly(tiny):
    dataset = CamVid(tiny / "camvid", "train")
    dataset.keep_labels(2)
    assert [(pair.image.name, pair.label is None) for pair in dataset.pairs] == [
        ("0.png", False),
        ("2.png", False),
        ("1.png", True),
        ("3.png", True),
    ]
    with pytest.raises(ValueError, match=r"labels of 3 images: .* has 2"):
        dataset.keep_labels(3)


def test_a_run_with_unlabelled_images_resumes_to_the_bit(tiny, tmp_path, few_labels, monkeypatch):
    more = [*few_labels, "--batch-size", "4"]
    train.main(arguments(tiny, tmp_path, "whole", ["--pi"], *more))
    with monkeypatch.context() as context:
        stop_before(context, 4)
        with pytest.raises(MemoryError):
            train.main(arguments(tiny, tmp_path, "parts", ["--pi"], *more, "--save-every", "1"))
    train.main(
        arguments(tiny, tmp_path, "parts", ["--pi"], *more, "--save-every", "1", "--resume", "--num-workers", "1")
    )
    assert_same(last(tmp_path, "parts"), last(tmp_path, "whole"))
