"""The mechanics of a step: parts of a batch, processes, averages, precision, refusals."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from segdistill.dataset import Normalization, Sample
from segdistill.network import SegmentationNetwork, build_network
from segdistill.network.base import Feature
from segdistill.utils.batch import make_batches
from segdistill.utils.learner import Learner, Objective, poly
from segdistill.utils.losses import PixelWise, TaskLoss, Term, build_losses

PLAIN = Normalization(mean=(127.0, 127.0, 127.0), std=(64.0, 64.0, 64.0))
METHODS = {"pi": {}, "pa": {"on": "layer3"}, "cwd": {"on": "layer2:layer3"}, "fitnet": {"on": "layer3"}}
TERMS = [Term(name, name, settings) for name, settings in METHODS.items()]


def sample_of(first=0, last=4):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 64, 64), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 5, (4, 64, 64), generator=generator, dtype=torch.uint8)
    labels[1, 20:] = 255  # shares of unequal numbers of labelled pixels
    keys = torch.stack([torch.zeros(4, dtype=torch.int64), torch.arange(4)], dim=1)
    return Sample(*(x[first:last] for x in (images, labels)), "", keys[first:last])


class Flat(SegmentationNetwork):
    """No BatchNorm, so that the parts of a batch know nothing of each other."""

    def __init__(self):
        super().__init__()
        self.num_classes = 5
        self.features = {"layer2": Feature(6, 2), "layer3": Feature(8, 4), "logits": Feature(5, 4)}
        self.first, self.second, self.head = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(8, 5, 1)

    def maps(self, images, wanted):
        layer2 = self.first(images).tanh()
        layer3 = self.second(layer2).tanh()
        return {"layer2": layer2, "layer3": layer3, "logits": self.head(layer3)}


def learner_of(make=Flat, terms=TERMS, compiled=False, **options):
    torch.manual_seed(0)
    student, teacher = make(), make().eval().requires_grad_(False)
    objective = Objective(student, TaskLoss(), build_losses(terms, student, teacher), compiled).double()
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], 0.1)
    return Learner(objective, optimizer, **options), teacher.double()


def step(learner, teacher, sample, progress=0.0, parts=1):
    for batch in make_batches(sample, PLAIN, progress=progress, parts=parts):
        batch = batch._replace(images=batch.images.double())
        learner.accumulate(batch, teacher(batch.images, learner.wanted))
    return learner.update()


def weights_of(learner):
    return {key: value.clone() for key, value in learner.objective.state_dict().items() if torch.is_tensor(value)}


def assert_updates_agree(one, other, before):
    for key, value in one.items():
        if value.is_floating_point() and not torch.equal(value, before[key]):
            update = (value - before[key]).abs().max()
            assert (other[key] - value).abs().max() <= 1e-6 * update, key


@pytest.mark.parametrize("void", ["keep", "mask"])
def test_accumulated_parts_are_the_large_batch(void):
    terms = [Term(name, name, {**settings, "void": void}) for name, settings in METHODS.items() if name != "pa"]
    results = []
    for parts in (1, 2, 4):
        learner, teacher = learner_of(terms=terms, parts=parts)
        before = weights_of(learner)
        values = step(learner, teacher, sample_of(), parts=parts)
        results.append((weights_of(learner), values))
    for weights, values in results[1:]:
        assert_updates_agree(results[0][0], weights, before)
        for key, value in results[0][1].items():
            torch.testing.assert_close(values[key], value, rtol=1e-6, atol=1e-9)


def espnet():
    return build_network("espnet_c", 5, p=1, q=1, norm="sync_batch_norm")


def train_in_process(rank, folder, count, compiled=False):
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    learner, teacher = learner_of(espnet, compiled=compiled)
    before = weights_of(learner)
    share = 4 // count
    for done in (0.0, 0.5):
        step(learner, teacher, sample_of(rank * share, (rank + 1) * share), done)
    torch.save((before, weights_of(learner)), f"{folder}/{count}_{rank}.pth")


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_are_one_to_a_millionth_of_the_update(tmp_path, traced, compiled):
    train_in_process(0, tmp_path, 1)
    mp.start_processes(train_in_process, (tmp_path, 2, compiled), nprocs=2, start_method="fork")
    before, one = torch.load(tmp_path / "1_0.pth")
    for rank in range(2):
        same, two = torch.load(tmp_path / f"2_{rank}.pth")
        assert all(torch.equal(before[key], same[key]) for key in before)
        assert_updates_agree(one, two, before)
    adapters = [key for key in one if "adapter" in key]
    assert len(adapters) == 2
    assert not any(torch.equal(one[key], before[key]) for key in adapters)


def pspnet():
    return build_network("pspnet", 5, backbone="resnet18_v1s")


ALL = (*METHODS.items(), ("at", {"on": "layer3"}))


def two_updates(make, compiled, methods=ALL):
    terms = [Term(name, name, settings) for name, settings in methods]
    learner, teacher = learner_of(make, terms, compiled=compiled)
    before = weights_of(learner)
    for number in range(2):
        torch.manual_seed(number)  # dropout
        step(learner, teacher, sample_of(), number / 2)
    return before, weights_of(learner)


@pytest.mark.slow
@pytest.mark.parametrize("make", [espnet, pspnet])
def test_compiled_updates_are_those_of_the_network(traced, make):
    (before, expected), (_, compiled) = two_updates(make, False), two_updates(make, True)
    assert compiled.keys() == expected.keys()
    assert_updates_agree(expected, compiled, before)


@pytest.mark.slow
def test_generated_code_gives_the_same_updates():
    """Of a network with dropout, from the same random numbers."""
    torch.compiler.reset()
    (before, expected), (_, compiled) = (two_updates(Dropped, compiled, [("pi", {})]) for compiled in (False, True))
    assert_updates_agree(expected, compiled, before)


class Dropped(Flat):
    def maps(self, images, wanted):
        return super().maps(nn.functional.dropout(images, 0.1, self.training), wanted)


class Branching(Flat):
    def maps(self, images, wanted):
        return super().maps(images * 2 if images.sum() > 0 else images, wanted)


def test_what_cannot_be_compiled_runs_as_it_is_with_one_warning(traced, caplog):
    (before, expected), (_, compiled) = two_updates(Branching, False), two_updates(Branching, True)
    assert_updates_agree(expected, compiled, before)  # the terms are compiled; the student is not, to the bit:
    student = Branching()
    objective = Objective(student, TaskLoss(), {}, compiled=True)
    (batch,) = make_batches(sample_of(), PLAIN)
    assert torch.equal(objective(batch, None)[0].logits, student.extract(batch.images, {"logits"}).logits)
    first, second = (record.getMessage() for record in caplog.records if record.name.startswith("segdistill"))
    assert first == second, "one of each objective"
    assert first.startswith("the student cannot be compiled (Data-dependent branching")


class Deciding(PixelWise):
    def forward(self, student, teacher, batch):
        term = super().forward(student, teacher, batch)
        return term if term > 0 else -term


def test_of_the_terms_that_alone_which_cannot_be_compiled_runs_as_it_is(traced, caplog):
    student, teacher = Flat(), Flat().eval()
    losses = {"deciding": Deciding(), "pi": PixelWise()}
    objective = Objective(student, TaskLoss(), losses, compiled=True)
    (batch,) = make_batches(sample_of(), PLAIN)
    _, terms = objective(batch, teacher.extract(batch.images, {"logits"}))
    torch.testing.assert_close(terms["deciding"], terms["pi"])
    (warning,) = (record.getMessage() for record in caplog.records if record.name.startswith("segdistill"))
    assert warning.startswith("deciding cannot be compiled (Data-dependent branching")


def test_rates_follow_the_schedule_group_by_group():
    learner, teacher = learner_of()
    parameters = list(learner.objective.parameters())
    groups = [{"params": parameters[:2], "lr": 1.0}, {"params": parameters[2:], "lr": 0.1}]
    learner = Learner(learner.objective, torch.optim.SGD(groups), schedule=poly(2))
    step(learner, teacher, sample_of(), progress=0.5)
    assert [group["lr"] for group in learner.optimizer.param_groups] == pytest.approx([0.25, 0.025])
    assert learner.rate == pytest.approx(0.25)


def test_the_gradient_is_clipped_to_its_greatest_norm():
    learner, teacher = learner_of(clip_norm=1e-3)
    before = weights_of(learner)
    norm = step(learner, teacher, sample_of())["grad_norm"]
    squares = [(value - before[key]).square().sum() for key, value in weights_of(learner).items()]
    assert norm > 1e-2
    assert sum(squares).sqrt() == pytest.approx(0.1 * 1e-3, rel=1e-4)


def test_the_moving_average_is_what_is_evaluated():
    learner, teacher = learner_of(ema=0.75)
    states = []
    for _ in range(3):
        step(learner, teacher, sample_of())
        states.append(copy.deepcopy(learner.objective.student.head.bias))
    # torch's average begins with the first step's weights.
    expected = 0.75 * (0.75 * states[0] + 0.25 * states[1]) + 0.25 * states[2]
    torch.testing.assert_close(learner.network.head.bias, expected)
    assert learner.network is not learner.objective.student


def test_a_refused_update_changes_nothing_and_the_next_one_works():
    learner, teacher = learner_of()
    before = weights_of(learner)
    batch = make_batches(sample_of(), PLAIN)[0]
    images = batch.images.double()
    learner.accumulate(batch._replace(images=images * float("nan")), teacher(images, learner.wanted))
    with pytest.raises(FloatingPointError, match="cross_entropy, pi, pa, cwd, fitnet not finite"):
        learner.update()
    assert all(torch.equal(value, before[key]) for key, value in weights_of(learner).items())
    step(learner, teacher, sample_of())
    assert not all(torch.equal(value, before[key]) for key, value in weights_of(learner).items())


def test_what_a_method_trains_itself_refuses_the_whole_step():
    learner, teacher = learner_of(terms=[Term("ft", "ft", {"on": "layer3"})])
    learner.objective.losses["ft"].decoder[0].bias.data.fill_(torch.inf)
    before = weights_of(learner)
    with pytest.raises(FloatingPointError, match=r"ft/error \(lower .*, --ft lr=\), ft/grad_norm .* not finite"):
        step(learner, teacher, sample_of())
    assert all(torch.equal(value, before[key]) for key, value in weights_of(learner).items())


def test_shares_add_up():
    learner, teacher = learner_of()
    values = step(learner, teacher, sample_of())
    shares = learner.shares(values)
    assert len(shares) == 5
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["share/cwd"] == pytest.approx(3 * values["loss/cwd"] / values["loss"])


def test_what_the_first_forward_pass_keeps_is_counted_once():
    learner, teacher = learner_of()
    step(learner, teacher, sample_of())
    whole = learner.saved_bytes
    step(learner, teacher, sample_of(0, 2))
    assert learner.saved_bytes == whole
    halves, teacher = learner_of(parts=2)
    step(halves, teacher, sample_of(), parts=2)
    assert 0.4 * whole < halves.saved_bytes < 0.6 * whole
    alone, teacher = learner_of(terms=[])
    step(alone, teacher, sample_of())
    assert 0 < alone.saved_bytes < whole
