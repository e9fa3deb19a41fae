"""The teacher's outputs on disk: the same student, whatever the folder held before."""

import fcntl
import multiprocessing
import os
import random
import shutil
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_train import arguments, assert_same, rows_of, stop_before

import train
from segdistill.dataset.normalization import IMAGENET
from segdistill.dataset.sampler import TrainSampler
from segdistill.network import SegmentationOutput, build_network
from segdistill.utils.batch import Batch
from segdistill.utils.options import parse_options
from segdistill.utils.teacher import Teacher
from segdistill.utils.teacher_cache import TeacherCache

TERMS = ["--pi", "--pa", "on=layer3", "--also", "cwd=--cwd"]
WANTED = {"logits", "layer3"}
VIEWS = 60


class Asked(Teacher):
    """A teacher that counts how often it is asked."""

    count = 0

    def forward(self, batch, features):
        self.count += 1
        return super().forward(batch, features)


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return Asked(build_network("espnet_c", 5, p=1, q=1), IMAGENET, IMAGENET)


def batch_of(*samples, shift=0.0):
    """Samples (view, index), whose pictures are a function of both."""
    images = [
        torch.randn(3, 32, 48, generator=torch.Generator().manual_seed(10 * view + index)) for view, index in samples
    ]
    labels = torch.zeros(len(samples), 32, 48, dtype=torch.uint8)
    return Batch(torch.stack(images) + shift, labels, torch.tensor(samples), torch.tensor(1.0), 0.0)


def test_what_was_said_once_is_not_asked_again(teacher, tmp_path):
    batch = batch_of((0, 0), (1, 0), (0, 2))
    cache = TeacherCache(tmp_path, teacher, {}, num_samples=3, views=2)
    first = cache(batch, WANTED)
    again = cache(batch_of((0, 2), (0, 0)), WANTED)
    assert teacher.count == 1
    expected = teacher(batch, WANTED)
    for name in WANTED:
        assert first.features[name].dtype == torch.float32
        torch.testing.assert_close(first.features[name], expected.features[name], rtol=1e-3, atol=1e-3)
        assert torch.equal(again.features[name], first.features[name][[2, 0]])
    assert torch.equal(first.logits, first.features["logits"])
    cache(batch_of((1, 2)), WANTED)
    assert teacher.count == 3  # one of them above, to compare


def test_another_feature_and_another_run_use_the_same_folder(teacher, tmp_path):
    batch = batch_of((0, 0), (0, 1))
    one, other = (TeacherCache(tmp_path, teacher, {}, 2, 1) for _ in range(2))
    said = one(batch, {"logits"}).logits
    other(batch_of((0, 1)), WANTED)
    assert torch.equal(other(batch, WANTED).logits, said)
    assert torch.equal(one(batch, WANTED).features["layer3"], other(batch, WANTED).features["layer3"])


def test_the_files_of_a_feature_lie_in_the_folder_whatever_its_name_is(tmp_path):
    feature = "/enc/Relu_output_0"

    def teacher(batch, features):
        return SegmentationOutput(None, {feature: torch.ones(len(batch.images), 2, 3, 4)})

    cache = TeacherCache(tmp_path, teacher, {}, 1, 1)
    assert (cache(batch_of((0, 0)), {feature}).features[feature] == 1).all()
    assert {path.suffix for path in cache.folder.iterdir()} >= {".maps", ".sums"}


def flip(content):
    """One bit, anywhere."""
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)


def zero(content):
    """A piece of any length."""
    start = random.randrange(len(content))
    content[start : start + random.randrange(1, len(content))] = 0


def exchange(content):
    """The first half and the second: a map, or its sum, at another's place."""
    half = len(content) // 2
    content[:half], content[half:] = content[half:].copy(), content[:half].copy()


@pytest.mark.parametrize("damage", [flip, zero, exchange])
@pytest.mark.parametrize("files", [("maps",), ("sums",), ("maps", "sums")])
def test_what_was_damaged_on_disk_is_asked_for_again(teacher, tmp_path, files, damage):
    batches = batch_of((0, 0)), batch_of((0, 1))
    written = TeacherCache(tmp_path, teacher, {}, 2, 1)
    outputs = [written(batch, {"logits"}).logits for batch in batches]
    random.seed(0)
    for _ in range(20):
        for file in files:
            (path,) = tmp_path.glob(f"*/logits.{file}")
            damage(np.memmap(path, np.uint8, "r+"))
        cache = TeacherCache(tmp_path, teacher, {}, 2, 1)
        for batch, output in zip(batches, outputs, strict=True):
            assert torch.equal(cache(batch, {"logits"}).logits, output)


@pytest.mark.parametrize("file", ["maps", "sums"])
def test_a_file_that_was_cut_is_an_error_that_names_it(teacher, tmp_path, file):
    TeacherCache(tmp_path, teacher, {}, 1, 1)(batch_of((0, 0)), {"logits"})
    (path,) = tmp_path.glob(f"*/logits.{file}")
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match=rf"logits\.{file} should have \d+ bytes for maps of .*: delete"):
        TeacherCache(tmp_path, teacher, {}, 1, 1)(batch_of((0, 0)), {"logits"})


def test_other_pictures_under_the_same_names_are_noticed(teacher, tmp_path):
    TeacherCache(tmp_path, teacher, {}, 2, 1)(batch_of((0, 0), (0, 1)), {"logits"})
    with pytest.raises(ValueError, match="delete that folder"):
        TeacherCache(tmp_path, teacher, {}, 2, 1)(batch_of((0, 0), (0, 1), shift=0.5), {"logits"})


def test_what_does_not_fit_is_refused_before_anything_is_written(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(100))
    with pytest.raises(OSError, match=r"logits of 2 views needs 0\.00 GiB.*--views"):
        TeacherCache(tmp_path, teacher, {}, 2, 1)(batch_of((0, 0)), {"logits"})
    assert not list(tmp_path.glob("*/logits.*"))


def fill(folder, started):
    """Fill the cache, view by view, in a process of its own."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    teacher = Teacher(build_network("espnet_c", 5, p=1, q=1), IMAGENET, IMAGENET)
    cache = TeacherCache(folder, teacher, {}, num_samples=2, views=VIEWS)
    for view in range(VIEWS):
        cache(batch_of((view, 0), (view, 1)), WANTED)
        started.set()


def check_filled(teacher, folder):
    """Every map is what the teacher says, whoever wrote it."""
    cache = TeacherCache(folder, teacher, {}, num_samples=2, views=VIEWS)
    for view in range(VIEWS):
        batch = batch_of((view, 0), (view, 1))
        expected = teacher(batch, WANTED).features
        for name, said in cache(batch, WANTED).features.items():
            torch.testing.assert_close(said, expected[name], rtol=1e-3, atol=2e-3)


def test_a_builder_that_is_killed_leaves_no_wrong_answer(teacher, tmp_path):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    builder = context.Process(target=fill, args=(tmp_path, started))
    builder.start()
    assert started.wait(60)
    builder.kill()  # SIGKILL, somewhere in between
    builder.join()
    check_filled(teacher, tmp_path)


@pytest.mark.parametrize("locks", ["of one machine", "of two machines"])
def test_two_builders_do_not_disturb_each_other(teacher, tmp_path, monkeypatch, locks):
    if locks == "of two machines":
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    context = multiprocessing.get_context("fork")
    started = context.Event()
    builders = [context.Process(target=fill, args=(tmp_path, started)) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
        assert builder.exitcode == 0
    asked = teacher.count
    check_filled(teacher, tmp_path)
    assert teacher.count == asked + VIEWS + 1  # to compare, here; the first batch is compared in any case


def test_values_beyond_float16_are_refused(teacher, tmp_path):
    with torch.no_grad():
        teacher.network.classifier.conv.weight.mul_(1e8)
    with pytest.raises(ValueError, match="float16"):
        TeacherCache(tmp_path, teacher, {}, 1, 1)(batch_of((0, 0)), {"logits"})


def test_views_come_back_after_as_many_epochs():
    batches = list(TrainSampler(3, 3, num_steps=6, seed=0, views=2))
    assert [{view for view, _ in batch} for batch in batches] == [{0}, {1}] * 3
    assert all(sorted(index for _, index in batch) == [0, 1, 2] for batch in batches)


def students(folder):
    """The checkpoints and rows of both students."""
    return {name: torch.load(folder / name / "last.pth", weights_only=True) for name in ("run", "cwd")}


@pytest.mark.slow
def test_a_cached_run_gives_the_same_student(tiny, tmp_path, monkeypatch):
    """Cold, warm, and killed in between: to the bit. Without a cache: as close as float16."""

    def command(name, *more):
        counts = ["--num-steps", "6", "--views", "2", "--save-every", "1"]
        return arguments(tiny, tmp_path / name, "run", TERMS, *counts, *more)

    cache = ["--teacher-cache", str(tmp_path / "cache")]
    train.main(command("cold", *cache))
    train.main(command("warm", *cache))
    with monkeypatch.context() as context:
        stop_before(context, 4)
        with pytest.raises(MemoryError):
            train.main(command("killed", "--teacher-cache", str(tmp_path / "other")))
    train.main(command("killed", "--teacher-cache", str(tmp_path / "other"), "--resume"))
    for name in ("warm", "killed"):
        assert_same(students(tmp_path / name), students(tmp_path / "cold"))

    with pytest.raises(ValueError, match="teacher-cache"):
        train.main(command("killed", "--resume"))

    train.main(command("plain"))
    cached, plain = (rows_of(tmp_path / name / "run") for name in ("cold", "plain"))
    for one, other in zip(cached, plain, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=2e-3)


def test_a_student_alone_beside_others_does_not_turn_the_cache_off(tiny, tmp_path):
    words = ["--num-labels", "4", "--unlabelled-share", "0.5", "--views", "2", "--teacher-cache", "cache"]
    words += ["--also", "alone=--num-labels 4", "--also", "cwd=--num-labels 4 --unlabelled-share none --cwd"]
    also = parse_options(arguments(tiny, tmp_path, "run", ["--pi"], *words)).also
    assert also[0].data == also[1].data
    assert train.Group([SimpleNamespace(options=one) for one in also], None, None).options == also[1]


@pytest.mark.parametrize(
    ("terms", "words", "message"), [(["--pi"], [], "--views"), ([], ["--views", "2"], "without a teacher")]
)
def test_a_cache_that_could_not_act_is_an_error(tiny, tmp_path, capsys, terms, words, message):
    with pytest.raises(SystemExit):
        train.main(arguments(tiny, tmp_path, "run", terms, *words, "--teacher-cache", "cache"))
    assert message in capsys.readouterr().err
