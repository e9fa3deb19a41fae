"""Groups of parameters, schedules and frozen parts: what they are, and that they are functions of the step."""

import copy

import pytest
import timm.optim
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from segdistill.dataset import Normalization, Sample
from segdistill.network import build_network
from segdistill.utils.batch import make_batches
from segdistill.utils.learner import Learner, Objective
from segdistill.utils.losses import TaskLoss, Term, build_losses
from segdistill.utils.optimizer import build_optimizer, frozen_backbone, layer_factors, parameter_groups, schedule_of
from segdistill.utils.options import parse_options
from segdistill.utils.student import build_learner
from segdistill.utils.tasks import TASKS


def options_of(*words):
    return parse_options(["--num-steps", "100", "--lr-g", "0.1", "--weight-decay", "0.01", *words]).optimisation


def objective_of(name="deeplabv3plus", terms=(), **settings):
    torch.manual_seed(0)
    settings = {"backbone": "resnet18"} | settings if name == "deeplabv3plus" else settings
    network = build_network(name, 5, **settings)
    teacher = build_network("espnet_c", 5, p=1, q=1).eval().requires_grad_(False)
    return Objective(network, TaskLoss(), build_losses([Term(f, f, s) for f, s in terms], network, teacher))


def names_of(objective, group):
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    return {names[id(parameter)] for parameter in group["params"]}


def trained(objective):
    return {name for name, parameter in objective.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("words", [["--optimizer", "sgd"], ["--optimizer", "adam"]])
def test_without_flags_there_is_one_group_of_all_parameters_in_their_order(words):
    objective = objective_of(terms=[("fitnet", {})])
    optimizer = build_optimizer(objective, options_of(*words))
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in objective.parameters() if p.requires_grad]
    kind = torch.optim.SGD if "sgd" in words else torch.optim.Adam
    expected = kind([nn.Parameter(torch.zeros(1))], 0.1, weight_decay=0.01).param_groups[0]
    keys = expected.keys() - {"params", "momentum"}
    assert group.keys() == expected.keys()
    assert {key: group[key] for key in keys} == {key: expected[key] for key in keys}
    assert group.get("momentum", 0.9) == 0.9


def test_adamw_decays_apart_from_the_gradient():
    objective = objective_of()
    optimizer = build_optimizer(objective, options_of("--optimizer", "adamw"))
    assert isinstance(optimizer, torch.optim.AdamW)
    weight = objective.student.head.weight
    before, weight.grad = weight.detach().clone(), torch.zeros_like(weight)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before * (1 - 0.1 * 0.01))


def test_parts_have_rates_of_their_own():
    objective = objective_of(terms=[("fitnet", {"on": "layer1"})])
    groups = parameter_groups(objective, options_of("--lr-factor", "head=10", "adapters=3"))
    rates = {round(group["lr"], 6): names_of(objective, group) for group in groups}
    assert rates.keys() == {0.1, 1.0, 0.3}
    assert rates[0.1] == {name for name in trained(objective) if name.startswith("student.backbone.")}
    assert rates[0.3] == {"losses.fitnet.adapter.weight"}
    assert set.union(*rates.values()) == trained(objective)
    assert sum(map(len, rates.values())) == len(trained(objective))


@pytest.mark.parametrize("part", ["neck", "adapters", "critic"])
def test_a_part_that_is_not_there_is_an_error_that_lists_the_known(part):
    with pytest.raises(ValueError, match=rf"--lr-factor {part}: .*known: backbone, head \("):
        parameter_groups(objective_of(), options_of("--lr-factor", f"{part}=2"))
    with pytest.raises(ValueError, match=r"known: head \("):
        parameter_groups(objective_of("espnet_c", p=1, q=1), options_of("--lr-factor", "backbone=2"))


@pytest.mark.parametrize(
    ("network", "settings", "backbone"),
    [
        ("torchvision:fcn_resnet50", {}, "backbone"),
        ("smp:unet", {"encoder_name": "resnet18"}, "model.encoder"),
        ("segformer", {"backbone": "mit_b0"}, "backbone"),
    ],
)
def test_networks_of_libraries_have_the_same_parts(network, settings, backbone):
    objective = objective_of(network, **settings)
    groups = parameter_groups(objective, options_of("--lr-factor", "head=10"))
    first, second = sorted(groups, key=lambda group: group["lr"])
    assert all(name.startswith(f"student.{backbone}.") for name in names_of(objective, first))
    assert not any(name.startswith(f"student.{backbone}.") for name in names_of(objective, second))


def test_norms_and_biases_need_not_decay():
    objective = objective_of()
    groups = parameter_groups(objective, options_of("--no-decay-norms"))
    free = {group["weight_decay"]: names_of(objective, group) for group in groups}
    assert free.keys() == {0.0, 0.01}
    assert "student.head.bias" in free[0.0]
    modules = dict(objective.named_modules())
    norms = [name for name in trained(objective) if isinstance(modules[name.rpartition(".")[0]], nn.BatchNorm2d)]
    assert free[0.0] >= set(norms)
    assert all(name.endswith("weight") for name in free[0.01])


def test_layer_decay_is_timms():
    network = build_network("timm:vit_tiny_patch16_224", 0)
    factors = layer_factors(network, 0.8)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    groups = timm.optim.param_groups_layer_decay(model, weight_decay=0.0, layer_decay=0.8)
    names = {id(parameter): f"student.model.{name}" for name, parameter in model.named_parameters()}
    expected = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    expected = {name: factor for name, factor in expected.items() if "model.head." not in name}
    assert factors == pytest.approx(expected)


def test_layer_decay_goes_through_the_stages_of_a_hierarchical_transformer():
    network = build_network("segformer", 5, backbone="mit_b0")
    factors = layer_factors(network, 0.5)
    blocks = [f"block{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    found = [factors[f"student.backbone.{block}.attn.q.weight"] for block in blocks]
    assert found == [0.5**power for power in range(8, 0, -1)]
    assert factors["student.backbone.patch_embed1.proj.weight"] == 0.5**9
    assert factors["student.backbone.norm4.weight"] == 0.5
    with pytest.raises(ValueError, match="--layer-decay has no effect with pspnet"):
        layer_factors(build_network("pspnet", 5), 0.5)


SCHEDULES = {
    "poly": ([], [1, (1 - 0.5) ** 0.9, (1 - 0.99) ** 0.9]),
    "floor": (["--min-lr", "0.01"], [1, 0.1 + 0.9 * 0.5**0.9, 0.1 + 0.9 * 0.01**0.9]),
    "cosine": (["--schedule", "cosine"], [1, 0.5, 0.000246719817]),
    "constant": (["--schedule", "constant"], [1, 1, 1]),
    "multistep": (["--schedule", "multistep", "--milestones", "0.5,90", "--gamma", "0.2"], [1, 0.2, 0.04]),
    "warmup": (["--schedule", "constant", "--warmup", "0.8"], [1e-6, 1e-6 + (1 - 1e-6) * 0.625, 1]),
    "warmup in steps": (["--warmup", "100", "--num-steps", "200"], [1e-6, 0.5**0.9, 0.01**0.9]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    words, expected = SCHEDULES[name]
    schedule = schedule_of(options_of(*words))
    assert [schedule(progress) for progress in (0.0, 0.5, 0.99)] == pytest.approx(expected, rel=1e-9)


def test_the_default_schedule_has_the_bits_of_its_formula():
    schedule = schedule_of(options_of())
    assert all(schedule(step / 100) == (1 - step / 100) ** 0.9 for step in range(100))


def test_multistep_falls_at_the_step_itself():
    schedule = schedule_of(options_of("--schedule", "multistep", "--milestones", "30,0.6"))
    rates = [schedule(step / 100) for step in range(100)]
    assert [step for step in range(1, 100) if rates[step] != rates[step - 1]] == [30, 60]


def batch_of(progress, part=slice(0, 2)):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 5, (2, 64, 64), generator=generator, dtype=torch.uint8)
    sample = Sample(images[part], labels[part], "", torch.zeros(2, 2, dtype=torch.int64)[part])
    plain = Normalization(mean=(127.0, 127.0, 127.0), std=(64.0, 64.0, 64.0))
    return make_batches(sample, plain, progress=progress)[0]


def learner_of(*words):
    options = parse_options(["--num-steps", "100", "--optimizer", "sgd", "--lr-g", "0.1", *words])
    network = objective_of().student
    return build_learner(options.objective, options.optimisation, TASKS["segmentation"], network, None, "cpu")


def step(learner, progress):
    torch.manual_seed(round(100 * progress))  # dropout
    learner.accumulate(batch_of(progress), None)
    return learner.update()


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module, before):
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def test_a_frozen_backbone_keeps_weights_and_statistics_until_its_share():
    learner = learner_of("--freeze", "backbone=0.5", "--weight-decay", "0.1")
    backbone, head = learner.objective.student.backbone, learner.objective.student.head
    before = state_of(backbone), state_of(head)
    for progress in (0.0, 0.49):
        step(learner, progress)
        learner.objective.student.train()  # as a validation leaves it
    assert not changed(backbone, before[0])
    assert changed(head, before[1]) == {"weight", "bias"}
    assert not any(parameter in learner.optimizer.state for parameter in backbone.parameters())
    step(learner, 0.5)
    assert changed(backbone, before[0]) == before[0].keys()


def test_a_backbone_frozen_for_good_is_not_in_the_optimizer():
    learner = learner_of("--freeze", "backbone")
    backbone = learner.objective.student.backbone
    before = state_of(backbone)
    for progress in (0.0, 0.99):
        step(learner, progress)
    assert not changed(backbone, before)
    optimized = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert not optimized & {id(p) for p in backbone.parameters()}


def test_a_learner_that_begins_after_the_thaw_is_one_that_saw_it():
    whole = learner_of("--freeze", "backbone=0.5", "--lr-factor", "head=10", "--warmup", "0.6")
    step(whole, 0.25)
    step(whole, 0.5)
    state = copy.deepcopy(whole.state_dict())
    step(whole, 0.75)
    resumed = learner_of("--freeze", "backbone=0.5", "--lr-factor", "head=10", "--warmup", "0.6")
    resumed.load_state_dict(state)
    step(resumed, 0.75)
    assert not changed(whole.objective, state_of(resumed.objective))


def train_in_process(rank, folder, count):
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    torch.manual_seed(0)
    network = build_network("espnet_c", 5, p=1, q=1, norm="sync_batch_norm")
    network.backbone_name = "level1"
    words = ["--num-steps", "100", "--optimizer", "sgd", "--lr-g", "0.1", "--freeze", "backbone=0.5"]
    options = parse_options([*words, "--network", "espnet_c", "--lr-factor", "head=2"])
    learner = build_learner(options.objective, options.optimisation, TASKS["segmentation"], network, None, "cpu")
    states = [state_of(network)]
    for progress in (0.0, 0.5, 0.6):
        share = 2 // count
        learner.accumulate(batch_of(progress, slice(rank * share, (rank + 1) * share)), None)
        learner.update()
        states.append(state_of(network))
    torch.save(states, f"{folder}/{count}_{rank}.pth")


def test_two_processes_thaw_at_the_same_step_and_are_one(tmp_path):
    train_in_process(0, tmp_path, 1)
    mp.start_processes(train_in_process, (tmp_path, 2), nprocs=2, start_method="fork")
    one, two, other = (torch.load(tmp_path / f"{name}.pth") for name in ("1_0", "2_0", "2_1"))
    for name in one[0]:
        assert all(torch.equal(left[name], right[name]) for left, right in zip(two, other, strict=True))
        torch.testing.assert_close(two[-1][name], one[-1][name], rtol=1e-4, atol=1e-6)
        moved = [not torch.equal(one[step][name], one[step - 1][name]) for step in (1, 2, 3)]
        if name.startswith("level1.") and not name.endswith("num_batches_tracked"):
            assert moved == [False, True, True], name


def test_what_a_frozen_backbone_leaves_without_effect_is_refused():
    options = options_of("--freeze", "backbone")
    with pytest.raises(ValueError, match="espnet_c, which has no backbone"):
        frozen_backbone(objective_of("espnet_c", p=1, q=1), options)
    with pytest.raises(ValueError, match="--fitnet teaches nothing with --freeze backbone"):
        frozen_backbone(objective_of(terms=[("fitnet", {"on": "layer1"})]), options)


def test_an_adapter_may_have_a_constant_rate():
    objective = objective_of(terms=[("cwd", {"on": "layer1:context", "adapter_lr": 0.02})])
    learner = Learner(objective, build_optimizer(objective, options_of()), schedule=schedule_of(options_of()))
    group = next(group for group in learner.optimizer.param_groups if group.get("constant"))
    assert names_of(objective, group) == {"losses.cwd.adapter.weight"}
    rates = [[], []]
    teacher = build_network("espnet_c", 5, p=1, q=1).eval().requires_grad_(False)
    for progress in (0.0, 0.5):
        batch = batch_of(progress)
        learner.accumulate(batch, teacher(batch.images, learner.wanted))
        learner.update()
        for rate, each in zip(rates, learner.optimizer.param_groups, strict=True):
            rate.append(each["lr"])
    assert rates == [[0.1, pytest.approx(0.1 * 0.5**0.9)], [0.02, 0.02]]
    with pytest.raises(ValueError, match=r"--cwd adapter_lr=0\.02"):
        objective_of(terms=[("cwd", {"on": "logits", "adapter_lr": 0.02})])
