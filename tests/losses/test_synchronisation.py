"""A step waits for its device once: for the guard against what is not finite.

The device is PyTorch's meta device, which needs no hardware: what would wait for a GPU (a value read, a shape that
depends on values, a copy that blocks) cannot be computed there, or is seen here.
"""

import traceback

import pytest
import torch
from test_contract import CASES, Small, build, parameters_of, sample_of
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import segdistill.utils.learner as learner_module
from segdistill.dataset.normalization import CAFFE, IMAGENET
from segdistill.network import SegmentationOutput, build_network
from segdistill.utils.batch import make_batches, without_unsure
from segdistill.utils.learner import Learner, Objective
from segdistill.utils.losses import TaskLoss
from segdistill.utils.mix import MIXES, mix_batch
from segdistill.utils.teacher import Inference, Teacher

aten = torch.ops.aten


class Device(TorchDispatchMode):
    """Notes the lines that read a value of the device, and those that wait for a copy to it."""

    def __init__(self):
        super().__init__()
        self.reads, self.waits = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default and args[0].is_meta:
            self.reads.append(place())
            return 1.0
        if func is aten._to_copy.default and "device" in kwargs:
            if args[0].is_meta and kwargs["device"].type == "cpu":
                self.reads.append(place())
                return torch.ones(args[0].shape, dtype=kwargs.get("dtype", args[0].dtype))
            if args[0].is_cpu and kwargs["device"].type == "meta" and not kwargs.get("non_blocking"):
                self.waits.append(place())
        if func is aten.copy_.default and args[0].device != args[1].device and args[1].dim():
            self.waits.append(place())
        if func in (aten.index.Tensor, aten.index_put_.default) and args[0].is_meta:
            self.waits += [place() for index in args[1] if index is not None and index.is_cpu]
        return func(*args, **kwargs)


class Constants(TorchFunctionMode):
    """Notes the lines that make a tensor of numbers on the device, which waits for their copy."""

    def __init__(self, waits: list[str]):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and result.is_meta and not isinstance(args[0], Tensor):
            self.waits.append(place())
        return result


def place() -> str:
    """The innermost line of the package that is being run."""
    frames = traceback.extract_stack()
    own = [f for f in frames if any(f"/{room}/" in f.filename for room in ("utils", "network", "dataset", "libs"))]
    own = [f for f in own if "/site-packages/" not in f.filename and "/tests/" not in f.filename]
    return f"{own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else "the test"


@pytest.fixture
def meta(monkeypatch):
    """Autocast knows no meta device, and a network there cannot be tried out on the CPU."""
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda _, *args, **options: autocast("cpu", *args, **options))
    monkeypatch.setattr(learner_module, "freeze_unused", lambda *_: None)


def learner_of(case: str | None, settings: dict | None = None, **options) -> tuple[Learner, Small]:
    with torch.device("meta"):
        student, teacher = Small(6, 8), Small(8, 4).eval().requires_grad_(False)
        losses = {"term": build(case, student, teacher)} if case else {}
        objective = Objective(student, TaskLoss(**settings or {}), losses)
    return Learner(objective, torch.optim.SGD(parameters_of(objective), 1e-3), **options), teacher


def step(learner: Learner, teacher: Small, parts: int = 1) -> None:
    for batch in make_batches(sample_of(), IMAGENET, "meta", parts=parts):
        learner.accumulate(batch, teacher(batch.images, learner.wanted))
    learner.update()


def assert_waits_once(learner: Learner, teacher: Small, parts: int = 1) -> None:
    with Device():
        step(learner, teacher, parts)  # makes queues and the state of optimizers
    with Device() as device, Constants(device.waits):
        step(learner, teacher, parts)
    assert len(device.reads) == 1, device.reads
    assert not device.waits, device.waits


@pytest.mark.parametrize("case", CASES)
def test_a_step_waits_once_whatever_the_method(case, meta):
    assert_waits_once(*learner_of(case))


@pytest.mark.parametrize("options", [{"clip_norm": 1.0}, {"ema": 0.9}, {"parts": 2}], ids=str)
def test_a_step_waits_once_whatever_the_options(options, meta):
    assert_waits_once(*learner_of("pi", **options), options.get("parts", 1))


@pytest.mark.parametrize(
    "settings",
    [{"aux_weight": 0.4}, {"ohem": {"min_kept": 1000}}, {"class_weights": [1.0] * 5, "focal": 2.0, "dice": 1.0}],
    ids=str,
)
def test_a_step_waits_once_whatever_the_loss_on_labels(settings, meta):
    assert_waits_once(*learner_of(None, settings))


def test_void_is_masked_and_unsure_positions_are_left_out_without_waiting(meta):
    learner, teacher = learner_of("cwd void=mask")
    with Device() as device, Constants(device.waits):
        (batch,) = make_batches(sample_of(), IMAGENET, "meta")
        output = teacher(batch.images, learner.wanted)
        learner.accumulate(without_unsure(batch, output.features["logits"], 0.9), output)
    assert not device.reads + device.waits


def test_a_teacher_in_another_convention_waits_for_nothing(meta):
    with torch.device("meta"):
        teacher = Teacher(Small(8, 4), CAFFE, IMAGENET, Inference("meta", stride=8))
    with Device() as device, Constants(device.waits):
        (batch,) = make_batches(sample_of(), IMAGENET, "meta")
        teacher(batch, {"logits"})
    assert not device.reads + device.waits


@pytest.mark.parametrize("name", MIXES)
def test_mixing_waits_for_nothing(name, meta):
    (batch,) = make_batches(sample_of(), IMAGENET, "meta", num_partners=1)
    logits = torch.empty(4, 5, 8, 8, device="meta")
    with Device() as device, Constants(device.waits):
        mix_batch(batch, SegmentationOutput(logits, {"logits": logits}), name, seed=0)
    assert not device.reads + device.waits


@pytest.mark.parametrize("name", ["espnet", "pspnet"])
def test_networks_wait_for_nothing(name, meta):
    with torch.device("meta"):
        network = build_network(name, 5)
    with Device() as device, Constants(device.waits):
        output = network(torch.empty(2, 3, 64, 64, device="meta"), {"logits"})
        output.logits.sum().backward()
    assert not device.reads + device.waits
