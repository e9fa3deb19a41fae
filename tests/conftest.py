"""What the tests share: the options of the test command, and a small data set that its teacher labels perfectly."""

import os
import random

import numpy as np
import pytest
import torch
from browser import started_browser
from interpreter import started_interpreter
from PIL import Image
from warm import do_not_sync, small_critic

from segdistill.dataset import CamVid
from segdistill.dataset.normalization import IMAGENET
from segdistill.network import build_network
from segdistill.network.weights.checkpoint import atomic_save, export_weights
from segdistill.utils.allocator import keep_freed_memory
from segdistill.utils.predict import class_ids, whole


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="the tests marked slow as well")


def pytest_configure(config):
    # One seed for all workers, printed, so that a test that draws (the instant of a kill, say) can be repeated.
    os.environ.setdefault("SEGDISTILL_SEED", str(random.randrange(2**32)))
    keep_freed_memory()
    do_not_sync()
    torch.set_flush_denormal(True)
    # If the first backward pass of a process is a compiled one, none works in its forks (findings/).
    torch.ones(1, requires_grad=True).sum().backward()
    if hasattr(config, "workerinput"):  # workers, and the processes they start, share the cores
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)


def pytest_report_header():
    return f"SEGDISTILL_SEED={os.environ['SEGDISTILL_SEED']}"


def pytest_collection_modifyitems(config, items):
    if config.getoption("--all") or config.getoption("-m"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in set(slow)]


@pytest.fixture(autouse=True)
def no_curves(request, monkeypatch):
    """They take a third of a run of six steps."""
    if not request.node.get_closest_marker("curves"):
        monkeypatch.setattr("segdistill.utils.report.pictures.plot_curves", lambda *_: None)


@pytest.fixture(scope="module")
def narrow_critic():
    """As in the processes that are forked from others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segdistill.utils.losses.holistic.Discriminator", small_critic())
        yield


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory):
    """What stands in for ``python`` in scripts, without its start."""
    with started_interpreter(tmp_path_factory.mktemp("interpreter")) as path:
        yield path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with ``camvid/`` (4 / 2 / 2 images of 64x64) and ``teacher.pth``, an ESPNet-C that labelled them."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    teacher = build_network("espnet_c", 11, p=1, q=1).eval()
    atomic_save(export_weights(teacher, IMAGENET, classes=CamVid.CLASSES), folder / "teacher.pth")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for kind in ("", "annot"):
            (folder / "camvid" / f"{split}{kind}").mkdir(parents=True)
        for index in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            image = np.array(coarse.resize((64, 64), Image.Resampling.BICUBIC))
            images = IMAGENET(torch.from_numpy(image).permute(2, 0, 1)[None])
            label = class_ids(whole(teacher)(images))[0].numpy()
            label[:3] = 11
            Image.fromarray(image).save(folder / "camvid" / split / f"{index}.png")
            Image.fromarray(label).save(folder / "camvid" / f"{split}annot" / f"{index}.png")
    return folder


@pytest.fixture
def traced(monkeypatch):
    """torch.compile that traces as ever and generates no code, which takes most of the time."""
    compile = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda call, fullgraph, options: compile(call, fullgraph=fullgraph, backend="aot_eager")
    )
    torch.compiler.reset()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Chromium without a window; skips where it is missing."""
    with started_browser(tmp_path_factory.mktemp("browser")) as window:
        yield window
