"""What holds for every distillation method: it is tested by being registered.

A case is a method by its flag, with settings as on the command line. Tables name the cases that a property does not
hold for, and why.
"""

import copy
import io
import itertools
import re

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from waves import train_own

from segdistill.dataset import Normalization, Sample
from segdistill.dataset.depth import DepthRange
from segdistill.network import SegmentationNetwork, SegmentationOutput, build_network, resize
from segdistill.network.base import Feature
from segdistill.network.depth import positive_depth
from segdistill.network.settings import parse_settings
from segdistill.utils.batch import Batch, make_batches
from segdistill.utils.learner import Learner, Objective
from segdistill.utils.losses import DISTILLATION_LOSSES, DistillationLoss, TaskLoss, Term, build_losses
from segdistill.utils.losses.base import resize_labels

# Settings that take another way through the code.
VARIANTS = (
    "aicsd similarity=gram",
    "at over=column",
    "cirkd pool=2",
    "cirkd-channel mse=1",
    "cwd adapter=conv_bn_relu on=context",
    "cwd norm=channel_mean divergence=mse",
    "cwd norm=none divergence=mse",
    "cwd norm=spatial",
    "depth kind=berhu",
    "depth kind=l1",
    "depth kind=ssi",
    "fitnet graph=true",
    "ho kind=hinge optimizer=adam",
    "kd grid=image",
    "mgd hidden=channels",
    "mimic distance=l2 normalize=true",
    "pa window=2",
    "rkd normalize=true",
)
CASES = (*DISTILLATION_LOSSES, *VARIANTS)

BATCH_NORM = "its BatchNorm takes statistics from the batch"
# The docstring of these, and of no others, speaks of a process's batch.
OF_A_BATCH = {
    "ab": BATCH_NORM,
    "cirkd": "pairs of images",
    "cirkd pool=2": "pairs of images",
    "cirkd-channel": "pairs of images",
    "cirkd-channel mse=1": "pairs of images",
    "cirkd-memory": BATCH_NORM,
    "cwd adapter=conv_bn_relu on=context": BATCH_NORM,
    "dist": "correlations over all positions of the batch",
    "fitnet graph=true": BATCH_NORM,
    "ho": BATCH_NORM,
    "ho kind=hinge optimizer=adam": BATCH_NORM,
    "overhaul": BATCH_NORM,
    "pkd": "correlations over all positions of the batch",
    "sp": "similarities of the batch's samples",
}

CRITIC = "a critic's score is no distance"
NO_DISTANCE = {
    "ab": "any map on the teacher's sides of 0 is as good",
    "cwd adapter=conv_bn_relu on=context": "a ReLU cannot be made the identity",
    "fitnet graph=true": "attention and its BatchNorm cannot be made the identity",
    "ho": CRITIC,
    "ho kind=hinge optimizer=adam": CRITIC,
}
# With these settings the student's own map is what is compared.
PLAIN_SETTINGS = {"mgd": {"share": 0.0}, "mgd hidden=channels": {"share": 0.0}}

ADAPTED_FIRST = "what is no 1x1 convolution comes before the resizing"
NOT_RESIZED_FIRST = {
    "ab": ADAPTED_FIRST,
    "cirkd-memory": ADAPTED_FIRST,
    "cwd adapter=conv_bn_relu on=context": ADAPTED_FIRST,
    "fitnet graph=true": ADAPTED_FIRST,
    "ft": ADAPTED_FIRST,
    "ho": "compares on the coarser grid",
    "ho kind=hinge optimizer=adam": "compares on the coarser grid",
    "kd grid=image": "the student's logits are enlarged once, straight to the image",
    "mgd": ADAPTED_FIRST,
    "mgd hidden=channels": ADAPTED_FIRST,
    "overhaul": ADAPTED_FIRST,
}

# What does not see the scale of a map is the steeper the nearer the map is to 0, up to an epsilon of 1e-8 or 1e-6.
STEEP_AT_ZERO = ("aicsd similarity=gram", "dist")

NEEDS_LABELS = {"ifvd": "compares classes"}

# Running statistics, and the critic's singular vectors, follow every forward pass; each process has its own statistics.
RUNNING = re.compile(r"(running_mean|running_var|num_batches_tracked)$")
FOLLOWS_FORWARD = re.compile(rf"{RUNNING.pattern}|discriminator\.\w+\.[uv]$")

LARGEST = 256e6  # bytes of the largest tensor of a step

PLAIN = Normalization(mean=(127.0, 127.0, 127.0), std=(64.0, 64.0, 64.0))


class Small(SegmentationNetwork):
    """Has every feature that a method asks for by default."""

    def __init__(self, width: int, stride: int, num_classes: int = 5):
        super().__init__()
        self.num_classes = num_classes
        channels = {"layer4.pre": width, "context": width, "aux_logits": num_classes, "logits": num_classes, "depth": 1}
        self.features = {name: Feature(count, stride) for name, count in channels.items()}
        self.body, self.norm = nn.Conv2d(3, width, 3, stride, 1), nn.BatchNorm2d(width)
        self.aux, self.head = (nn.Conv2d(width, num_classes, 1) for _ in range(2))
        self.depth = DepthRange(0.5, 20.0)

    def norm_before(self, feature: str) -> nn.BatchNorm2d:
        return self.norm

    def maps(self, images: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
        before = self.norm(self.body(images))
        after = before.relu()
        logits = {"aux_logits": self.aux(before), "logits": self.head(after)}
        return {"layer4.pre": before, "context": after, **logits, "depth": positive_depth(logits["logits"], self.depth)}


STUDENT, TEACHER = Small(6, 8), Small(8, 4)
SAME_GRID = Small(6, 4)


def build(case: str, student=STUDENT, teacher=TEACHER, seed: int = 0, **settings) -> DistillationLoss:
    flag, *words = case.split()
    cls = DISTILLATION_LOSSES[flag]
    torch.manual_seed(seed)
    return cls.between(student, teacher, **parse_settings(cls, words, flag), **settings)


def output_of(network: SegmentationNetwork, seed: int, num: int = 4, side: int = 32) -> SegmentationOutput:
    """Random maps of images of this side."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: (num, f.channels, side // f.stride, side // f.stride) for name, f in network.features.items()}
    maps = {name: torch.randn(s, generator=generator) for name, s in shapes.items()}
    return SegmentationOutput(None, maps | {"depth": maps["depth"].exp()})


def changed(output: SegmentationOutput, change) -> SegmentationOutput:
    return SegmentationOutput(None, {name: change(x) for name, x in output.features.items()})


def sample_of() -> Sample:
    """Four samples, of which one has a void strip and one no label."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 5, (4, 32, 32), generator=generator, dtype=torch.uint8)
    labels[0, :12], labels[1] = 255, 255
    return Sample(images, labels, "", torch.zeros(4, 2, dtype=torch.int64))


def batch_of(sample: Sample) -> Batch:
    return make_batches(sample, PLAIN)[0]


BATCH = batch_of(sample_of())


def run(loss, student, teacher, batch=BATCH, seed: int | None = 0, autocast: torch.dtype | None = None):
    """The value and the gradient of the student's maps by name; the teacher's get none."""
    if seed is not None:
        torch.manual_seed(seed)
    student, teacher = (changed(output, lambda x: x.detach().clone().requires_grad_()) for output in (student, teacher))
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        value = loss(student, teacher, batch)
    learning = {name: student.features[name] for name in sorted(loss.needs.student)}
    inputs = [*learning.values(), *teacher.features.values()]
    gradients = torch.autograd.grad(value, inputs, allow_unused=True)
    assert all(gradient is None for gradient in gradients[len(learning) :])
    return value.detach(), dict(zip(learning, gradients, strict=False))


def parameters_of(loss: nn.Module) -> list[Tensor]:
    return [p for p in loss.parameters() if p.requires_grad]


def assert_same(one: object, other: object) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.fixture(params=CASES)
def case(request) -> str:
    return request.param


def test_teaches_the_student_by_a_float32_scalar(case):
    value, gradients = run(build(case), output_of(STUDENT, 1), output_of(TEACHER, 2))
    assert value.dtype == torch.float32
    assert value.shape == ()
    assert value.isfinite()
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients.values())


def without_classes(network: Small) -> Small:
    network.num_classes = 0
    return network


@pytest.mark.parametrize("widths", [(1, 1), (6, 1), (1, 8)])
@pytest.mark.parametrize("with_classes", [True, False])
def test_one_channel_or_no_classes_teach_or_are_refused_in_one_line(case, widths, with_classes):
    student, teacher = Small(widths[0], 8, num_classes=1), Small(widths[1], 4, num_classes=1)
    if not with_classes:
        student, teacher = without_classes(student), without_classes(teacher)
    sample = sample_of()
    sample.label[sample.label < 255] = 0
    flag, *words = case.split()
    term = Term("term", flag, parse_settings(DISTILLATION_LOSSES[flag], words, flag))
    torch.manual_seed(0)
    refusal = None
    try:
        losses = build_losses([term], student, teacher)
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert re.fullmatch(rf"--{flag} .*(channels|classes).*", refusal)
        return
    outputs = output_of(student, 1), output_of(teacher, 2)
    value, gradients = run(losses["term"], *outputs, batch_of(sample))
    total = sum(gradient.abs().sum() for gradient in gradients.values())
    assert total > 1e-4 * abs(value)  # a constant has 1e-7 by rounding
    train_own(losses["term"], *outputs, batch_of(sample))


@pytest.mark.parametrize("flag", ["csd", "dist", "dkd", "hard", "ho", "aicsd", "kd", "pi", "wsld"])
def test_what_has_no_adapter_is_refused_between_maps_of_other_widths(flag):
    with pytest.raises(ValueError, match=f"--{flag} needs (maps of equal channels|logits)"):
        build_losses([Term("term", flag, {"on": "context"})], STUDENT, TEACHER)
    with pytest.raises(ValueError, match=f"--{flag} needs maps of equal channels"):
        build_losses([Term("term", flag, {"on": "logits"})], STUDENT, Small(8, 4, num_classes=7))


@pytest.mark.parametrize("flag", ["dkd", "wsld"])
def test_what_looks_classes_up_needs_logits(flag):
    with pytest.raises(ValueError, match=f"--{flag} needs logits: .*student's context"):
        build_losses([Term("term", flag, {"on": "context"})], STUDENT, SAME_GRID)


@pytest.mark.parametrize(
    ("case", "flag"), [("cwd norm=spatial", "cwd"), ("fitnet graph=true", "fitnet"), ("rkd normalize=true", "rkd")]
)
def test_what_needs_several_channels_works_without_that_setting(case, flag):
    student, teacher = Small(1, 8, num_classes=1), Small(1, 4, num_classes=1)
    build_losses([Term("term", flag, {})], student, teacher)
    settings = parse_settings(DISTILLATION_LOSSES[flag], case.split()[1:], flag)
    with pytest.raises(ValueError, match=f"--{flag} .*2 channels"):
        build_losses([Term("term", flag, settings)], student, teacher)


@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16)],
)
def test_autocast_lowers_the_precision_of_adapters_alone(case, dtype, autocast):
    loss = build(case)
    student, teacher = (changed(output_of(*x), lambda x: x.to(dtype)) for x in ((STUDENT, 1), (TEACHER, 2)))
    value, gradients = run(loss, student, teacher, autocast=autocast)
    assert value.dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    expected, _ = run(build(case), *(changed(output, Tensor.float) for output in (student, teacher)))
    if parameters_of(loss):
        torch.testing.assert_close(value, expected, rtol=0.03, atol=0.01)
    else:
        assert value == expected
    assert all(value.isfinite() for value in train_own(loss, student, teacher, BATCH).values())


def make_identity(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.dirac_(part.weight)
        elif isinstance(part, nn.Linear):
            nn.init.eye_(part.weight)
        elif isinstance(part, nn.BatchNorm2d):
            part.eps = 1e-12  # 1 + eps is 1 in float32; PyTorch 2.11 refuses 0
        if getattr(part, "bias", None) is not None:
            nn.init.zeros_(part.bias)
    module.eval()


def test_is_least_for_the_teachers_own_map(case):
    if case in NO_DISTANCE:
        pytest.skip(NO_DISTANCE[case])
    loss = build(case, TEACHER, TEACHER, **PLAIN_SETTINGS.get(case, {}))
    make_identity(loss)
    student, teacher = (changed(output_of(TEACHER, seed), Tensor.abs) for seed in (1, 2))
    # Cross-entropy against the teacher's class ends at the teacher's own doubt.
    floor = -teacher.features["logits"].log_softmax(1).amax(1).mean() if case == "hard" else 0
    own, other = run(loss, teacher, teacher)[0], run(loss, student, teacher)[0]
    assert abs(own - floor) < 1e-5 * (other - floor)


@pytest.mark.parametrize("dead", ["student", "both", "channel"])
def test_dead_maps_have_a_bounded_gradient(case, dead):
    student, teacher = output_of(STUDENT, 1), output_of(TEACHER, 2)
    if dead == "channel":
        for x in student.features.values():
            x[:, 1:2] = 0
    else:
        student = changed(student, torch.zeros_like)
    if dead == "both":
        teacher = changed(teacher, torch.zeros_like)
    value, gradients = run(build(case), student, teacher)
    assert value.isfinite()
    assert all(gradient.abs().max() < (1e6 if case in STEEP_AT_ZERO else 100) for gradient in gradients.values())


def run_share(loss, student, teacher, share):
    """Value and gradient of half of the batch, as a process would see it."""
    halves = {"num_valid": BATCH.num_valid / 2, "num_kept": BATCH.num_kept / 2}
    batch = BATCH._replace(images=BATCH.images[share], labels=BATCH.labels[share], keys=BATCH.keys[share], **halves)
    return run(loss, *(changed(output, lambda x: x[share]) for output in (student, teacher)), batch, seed=None)


@pytest.mark.parametrize("void", ["keep", "mask"])
def test_a_batch_is_the_mean_of_its_parts(case, void):
    loss, student, teacher = build(case, void=void), output_of(STUDENT, 1), output_of(TEACHER, 2)
    value, gradients = run(loss, student, teacher)
    torch.manual_seed(0)
    parts = [run_share(loss, student, teacher, share) for share in (slice(2), slice(2, 4))]
    mean = (parts[0][0] + parts[1][0]) / 2
    assert ("process's batch" in type(loss).__doc__) == any(case.split()[0] == key.split()[0] for key in OF_A_BATCH)
    if case in OF_A_BATCH:
        assert abs(mean - value) > 1e-5 * abs(value), "the table's exception is none"
        return
    torch.testing.assert_close(mean, value)
    for name, gradient in gradients.items():
        torch.testing.assert_close(torch.cat([part[name] for _, part in parts]) / 2, gradient)


def test_student_is_brought_to_the_teachers_size(case):
    student, teacher = output_of(STUDENT, 1), output_of(TEACHER, 2)
    value, _ = run(build(case), student, teacher)
    resized, _ = run(build(case), changed(student, lambda x: resize(x, (8, 8))), teacher)
    if case in NOT_RESIZED_FIRST:
        assert value != resized, "the table's exception is none"
    else:
        torch.testing.assert_close(value, resized)


def test_memory_format_does_not_matter(case):
    student, teacher = output_of(STUDENT, 1), output_of(TEACHER, 2)
    last = (changed(x, lambda x: x.contiguous(memory_format=torch.channels_last)) for x in (student, teacher))
    torch.testing.assert_close(run(build(case), *last)[0], run(build(case), student, teacher)[0])


def test_other_batch_size_is_an_error(case):
    student, teacher = output_of(STUDENT, 1, num=1), output_of(TEACHER, 2)
    with pytest.raises(ValueError, match=r"\(1, .*\(4, "):
        run(build(case, void="keep"), student, teacher)  # a mask would broadcast the one sample


def test_masked_content_does_not_matter(case):
    maps = output_of(SAME_GRID, 1), output_of(TEACHER, 2)
    void = (resize_labels(BATCH.labels, (8, 8)) == 255)[:, None]
    void[1] = False  # everything counts in an image without any label
    filled = [changed(x, lambda x: x.masked_fill(void, content)) for x, content in zip(maps, (50, -70), strict=True)]  # noqa: B023
    results = []
    for outputs in (maps, filled):
        loss = build(case, SAME_GRID, void="mask")
        train_own(loss, *outputs, BATCH)
        results.append((copy.deepcopy(loss.state_dict()), *run(loss, *outputs)))
    (state, value, gradients), (other_state, other_value, other_gradients) = results
    torch.testing.assert_close(other_state, state)
    if case == "kd grid=image":  # a labelled pixel beside void ones lies between the positions of both
        assert other_value != value
        return
    torch.testing.assert_close(other_value, value)
    torch.testing.assert_close(other_gradients, gradients)
    for gradient in gradients.values():
        assert gradient.masked_select(void).abs().sum() == 0
        assert (gradient[1].abs().sum() > 0) == (case not in NEEDS_LABELS)
        assert gradient[0].abs().sum() > 0


@pytest.mark.parametrize("label", [0, 255])
def test_everything_counts_where_all_is_labelled_or_nothing_is(case, label):
    sample = sample_of()
    sample.label.fill_(label)
    losses = (build(case, void=void) for void in ("keep", "mask"))
    results = [run(loss, output_of(STUDENT, 1), output_of(TEACHER, 2), batch_of(sample)) for loss in losses]
    torch.testing.assert_close(*results)


def test_without_a_valid_position_there_is_nothing_to_learn(case):
    sample = sample_of()
    sample.label.fill_(255)
    sample.label[:, 1, 1] = 0  # labelled, so void is masked, but no position of the map lies there
    loss = build(case, SAME_GRID, void="mask")
    value, gradients = run(loss, output_of(SAME_GRID, 1), output_of(TEACHER, 2), batch_of(sample))
    if case == "kd grid=image":  # it compares at that very pixel
        assert value > 0
        return
    assert value.isfinite()
    assert all(gradient.abs().sum() == 0 for gradient in gradients.values())


def learner_of(case: str, seed: int) -> tuple[Learner, SegmentationNetwork]:
    torch.manual_seed(0)
    teacher = Small(8, 4).eval().requires_grad_(False)
    torch.manual_seed(seed)
    student = Small(6, 8)
    objective = Objective(student, TaskLoss(), {"term": build(case, student, teacher, seed)})
    return Learner(objective, torch.optim.Adam(parameters_of(objective), 1e-3)), teacher


def step(learner: Learner, teacher: SegmentationNetwork, batch: Batch, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    learner.accumulate(batch, teacher(batch.images, learner.wanted))
    return learner.update()


def test_adapters_train_and_a_saved_state_resumes_to_the_bit(case):
    learner, teacher = learner_of(case, 1)
    before = {name: p.detach().clone() for name, p in learner.objective.losses.named_parameters() if p.requires_grad}
    step(learner, teacher, BATCH, 1)
    for name, parameter in before.items():
        assert not torch.equal(learner.objective.losses.get_parameter(name), parameter), name

    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    again, _ = learner_of(case, 2)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert_same(step(again, teacher, BATCH, 2), step(learner, teacher, BATCH, 2))
    assert_same(again.state_dict(), learner.state_dict())


def test_two_terms_share_nothing_and_only_a_step_changes_what_is_kept(case):
    flag, *words = case.split()
    terms = [Term(name, flag, parse_settings(DISTILLATION_LOSSES[flag], words, flag)) for name in ("one", "two")]
    one, two = build_losses(terms, STUDENT, TEACHER).values()
    assert not {id(x) for x in one.parameters()} & {id(x) for x in two.parameters()}
    outputs = output_of(STUDENT, 1), output_of(TEACHER, 2)
    for loss in (one, two):  # a queue is made when its width is known
        train_own(loss, *outputs, BATCH)

    before, others = copy.deepcopy(one.state_dict()), copy.deepcopy(two.state_dict())
    run(one, *outputs)
    after = one.state_dict()
    kept = {key for key in before if not FOLLOWS_FORWARD.search(key)}
    assert_same({key: after[key] for key in kept}, {key: before[key] for key in kept})

    logged = train_own(one, *outputs, BATCH)
    assert all(value.shape == () and not value.requires_grad for value in logged.values())
    assert_same(two.state_dict(), others)


def train_in_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(rank)
    student, teacher = Small(6, 8), Small(8, 4).eval().requires_grad_(False)
    objective = Objective(student, TaskLoss(), {case: build(case, student, teacher, rank) for case in CASES})
    learner = Learner(objective, torch.optim.Adam(parameters_of(objective), 1e-3))
    share = Sample(*(x[2 * rank : 2 * rank + 2] if torch.is_tensor(x) else x for x in sample_of()))
    for number in range(2):
        step(learner, teacher, batch_of(share), 10 * number + rank)
    torch.save(objective.losses.state_dict(), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_keep_the_same(tmp_path):
    mp.start_processes(train_in_process, (str(tmp_path),), nprocs=2, start_method="fork")
    states = [torch.load(tmp_path / f"{rank}.pth") for rank in range(2)]
    for key, value in states[0].items():
        if not RUNNING.search(key):
            assert_same(states[1][key], value)


class Largest(TorchDispatchMode):
    """The most bytes that a tensor made inside has, views of others apart."""

    num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given, made = ([x for x in tree_leaves(tree) if torch.is_tensor(x)] for tree in ((args, kwargs), result))
        known = {x.untyped_storage()._cdata for x in given}
        sizes = [x.numel() * x.element_size() for x in made if x.untyped_storage()._cdata not in known]
        self.num_bytes = max(self.num_bytes, *sizes, 0)
        return result


@pytest.mark.slow
def test_no_tensor_of_a_step_is_large(case):
    """At the maps of 512x512 crops: 64x64, 8 samples, 256 channels, 19 classes."""
    with FakeTensorMode():
        student, teacher = Small(128, 8, num_classes=19), Small(256, 8, num_classes=19)
        loss = build(case, student, teacher, void="mask")
        outputs = output_of(student, 1, num=8, side=512), output_of(teacher, 2, num=8, side=512)
        labels = torch.zeros(8, 512, 512, dtype=torch.uint8)
        batch = Batch(torch.empty(0), labels, torch.empty(0), torch.tensor(1.0), 0.0)
        loss(*outputs, batch)  # makes the queues, which are stated in the docstring
        with Largest() as largest:
            run(loss, *outputs, batch)
    assert largest.num_bytes < LARGEST


# Some that must not be refused.
STEP_ON_DEPTH = {("depth", "depth"), *itertools.product(("fitnet", "at", "pa", "cwd"), ("context", "layer3.pre"))}


@pytest.fixture(scope="module")
def depth_pair() -> tuple[SegmentationNetwork, SegmentationNetwork, Batch]:
    """A student and a teacher that answer in depth, and a batch of values with void ones and one unlabelled image."""
    torch.manual_seed(0)
    student, teacher = (build_network("espnet_c", 1, p=1, q=q, depth=DepthRange(0.5, 20.0)) for q in (1, 2))
    sample = sample_of()
    values = sample.label.float().masked_fill(sample.label == 255, float("nan")) + 1
    sample = sample._replace(image=sample.image.repeat(1, 1, 2, 2), label=values.repeat(1, 2, 2))
    return student, teacher.eval().requires_grad_(False), batch_of(sample)


@pytest.mark.parametrize("feature", ["depth", "depth.pre", "context", "layer3.pre"])
def test_depth_is_taught_or_refused_in_one_line(case, feature, depth_pair):
    student, teacher, batch = depth_pair
    flag, *words = case.split()
    words = [word for word in words if not word.startswith("on=")]
    settings = parse_settings(DISTILLATION_LOSSES[flag], [*words, f"on={feature}", "void=mask"], flag)
    torch.manual_seed(0)
    refusal = None
    try:
        loss = build_losses([Term("term", flag, settings)], student, teacher)["term"]
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert re.fullmatch(rf"--{flag} .*|.* has no BatchNorm before .*", refusal)
        assert (flag, feature) not in STEP_ON_DEPTH or "has no effect: both maps" in refusal
        return
    outputs = student(batch.images, loss.needs.student), teacher(batch.images, loss.needs.teacher)
    value = sum(loss(*outputs, batch) for _ in range(3))  # what hides channels at random may hide a single one
    gradients = torch.autograd.grad(value, [p for p in student.parameters() if p.requires_grad], allow_unused=True)
    assert value.isfinite()
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients if gradient is not None) > 0
    train_own(loss, *(changed(output, Tensor.detach) for output in outputs), batch)
