"""Networks of other libraries as students and teachers in train.py: nothing is downloaded, all start from a config."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

import eval as evaluation
import train
from segdistill.dataset import CamVid
from segdistill.dataset.sampler import TrainSampler
from segdistill.dataset.transforms import RandomCrop
from segdistill.network import build_network, load_network
from segdistill.utils.batch import make_batches
from segdistill.utils.learner import Learner, Objective
from segdistill.utils.losses import TaskLoss, build_losses
from segdistill.utils.options import name_terms
from segdistill.utils.teacher import Teacher

STEPS = 2
PSPNET = ["--network", "pspnet", "--network-options", "backbone=resnet18_v1s"]
ROOT = Path(__file__).parents[1]
MY_NET = re.search(r"^```python\n(# my_net\.py.*?)^```$", (ROOT / "docs/external.md").read_text(), re.M | re.S)[1]


def arguments(tiny, folder, name, *more):
    return [
        *("--dataset", "camvid", "--data-dir", str(tiny / "camvid"), "--input-size", "64,64", "--random-mirror"),
        *("--batch-size", "2", "--num-steps", str(STEPS), "--num-workers", "0", "--log-every", "1"),
        *("--snapshot-dir", str(folder), "--save-name", name, *more),
    ]


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A folder of Hugging Face: a small DINOv2 and its image processor. Its weights are random, which no check of a
    network without classes can see."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    transformers.Dinov2Model(
        transformers.Dinov2Config(hidden_size=24, num_hidden_layers=4, num_attention_heads=2, patch_size=14)
    ).save_pretrained(folder)
    processor = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    processor |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture
def unlabelled(tiny, tmp_path):
    """A list of images without labels."""
    path = tmp_path / "images.txt"
    path.write_text("".join(f"train/{i}.png\n" for i in range(4)))
    return path


def from_vit(vit, unlabelled, *terms):
    teacher = ["--teacher-network", f"hf:{vit}", "--teacher-options", "pretrained=true"]
    return [*teacher, "--task-weight", "0", "--data-list", str(unlabelled), *terms]


@pytest.mark.parametrize(
    "network",
    [
        "FOLDER/my_net.py:MyNet",
        pytest.param("torchvision:lraspp_mobilenet_v3_large", marks=pytest.mark.slow),
        pytest.param("smp:fpn", marks=pytest.mark.slow),
    ],
)
def test_a_student_of_another_library_learns_and_is_evaluated_from_its_checkpoint(network, tiny, tmp_path):
    if network.startswith("smp:"):
        pytest.importorskip("segmentation_models_pytorch")
    (tmp_path / "my_net.py").write_text(MY_NET)
    network = network.replace("FOLDER", str(tmp_path))
    teacher = ["--T_ckpt_path", str(tiny / "teacher.pth"), "--pi", "--fitnet", "on=context:layer3"]
    options = ["--network-options", "encoder_name=resnet18"] if network.startswith("smp:") else []
    assert train.main(arguments(tiny, tmp_path, "run", "--network", network, *options, *teacher)) == 0
    words = ["--dataset", "camvid", "--data-dir", str(tiny / "camvid"), "--checkpoint", str(tmp_path / "run/best.pth")]
    assert evaluation.main([*words, "--network", network, "--output", str(tmp_path / "run/evaluation.json")]) == 0
    figures = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert figures["network"]["name"] == network
    if ".py:" in network:  # a file of weights alone does not get code to run
        (tmp_path / "my_net.py").write_text("raise SystemExit('it ran')")
        with pytest.raises(ValueError, match="--network"):
            evaluation.main(words)
    assert figures["mean_iou"] == pytest.approx(
        max(row.get("val/mean_iou", 0) for row in rows_of(tmp_path / "run")), abs=1e-6
    )


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_backbone_is_distilled_without_labels_and_then_trained(tiny, tmp_path, vit, unlabelled):
    terms = ["--fitnet", "on=layer4:context", "--pa", "on=layer4:context"]
    assert train.main(arguments(tiny, tmp_path, "bare", *PSPNET, *from_vit(vit, unlabelled, *terms))) == 0
    rows = rows_of(tmp_path / "bare")
    assert not any(key.startswith("val/") or "cross_entropy" in key for row in rows for key in row)
    assert all(row["loss/fitnet"] > 0 for row in rows if "loss" in row)
    record = json.loads((tmp_path / "bare/teacher.json").read_text())
    assert (record["file"], record["family"], record["num_classes"], record["mean_iou"]) == (f"hf:{vit}", "hf", 0, None)
    assert len(record["sha256"]) == 64

    # What nothing asked for is as it was built, the backbone is not: the last weights are kept as the best.
    last = torch.load(tmp_path / "bare/last.pth", weights_only=True)["student"]
    best = torch.load(tmp_path / "bare/best.pth", weights_only=True)["state_dict"]
    torch.manual_seed(0)
    fresh = build_network("pspnet", 11, backbone="resnet18_v1s").state_dict()
    assert all(torch.equal(last[key], best[key]) for key in best)
    moved = {key.split(".")[0] for key in best if not torch.equal(best[key], fresh[key])}
    assert moved == {"backbone"}

    start = ["--S_ckpt_path", str(tmp_path / "bare/best.pth")]
    assert train.main(arguments(tiny, tmp_path, "trained", *PSPNET, *start)) == 0
    assert any("val/mean_iou" in row for row in rows_of(tmp_path / "trained"))


def test_a_run_without_labels_is_resumed_with_the_same_teacher_alone(tiny, tmp_path, vit, unlabelled):
    transformers = pytest.importorskip("transformers")
    vit = shutil.copytree(vit, tmp_path / "vit")
    words = from_vit(vit, unlabelled, "--fitnet", "on=layer3:context")
    student = ["--network", "espnet_c", "--network-options", "p=1", "q=1"]
    assert train.main(arguments(tiny, tmp_path, "run", *student, *words)) == 0
    longer = [*arguments(tiny, tmp_path, "run", *student, *words, "--resume"), "--num-steps", "3"]
    assert train.main(longer) == 0
    assert rows_of(tmp_path / "run")[-1]["step"] == 3
    transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(vit)).save_pretrained(vit)
    with pytest.raises(ValueError, match=r"not the teacher that .*run was started with"):
        train.main([*arguments(tiny, tmp_path, "run", *student, *words, "--resume"), "--num-steps", "4"])


def test_a_backbone_of_timm_is_a_student_of_features_and_of_nothing_else(tiny, tmp_path, vit, unlabelled):
    pytest.importorskip("timm")
    student = ["--network", "timm:resnet10t"]
    words = from_vit(vit, unlabelled, "--fitnet", "on=context")
    assert train.main(arguments(tiny, tmp_path, "run", *student, *words)) == 0
    network, report = load_network(tmp_path / "run/best.pth")
    assert (network.num_classes, report.config) == (0, {"name": "timm:resnet10t", "num_classes": 0})
    words = ["--dataset", "camvid", "--data-dir", str(tiny / "camvid"), "--checkpoint", str(tmp_path / "run/best.pth")]
    with pytest.raises(ValueError, match="no classes, so it predicts nothing"):
        evaluation.main(words)
    with pytest.raises(ValueError, match="--task-weight 0 distils its features alone, and smp: builds a decoder"):
        train.main(arguments(tiny, tmp_path, "labels", *student))


def test_a_teacher_that_is_not_pretrained_is_refused(tiny, tmp_path, vit):
    words = ["--teacher-network", f"hf:{vit}", "--teacher-options", "pretrained=false", "--fitnet", "on=layer3:context"]
    with pytest.raises(ValueError, match="untrained and teaches nothing: --T_ckpt_path names its file"):
        train.main(arguments(tiny, tmp_path, "run", *words))


def test_labels_are_needed_unless_they_weigh_nothing(tiny, tmp_path, unlabelled):
    with pytest.raises(ValueError, match=r"images\.txt:1: expected 'image label'"):
        train.main(arguments(tiny, tmp_path, "run", *PSPNET, "--data-list", str(unlabelled)))


def test_the_task_weight_is_the_factor_of_the_labels():
    objective = Objective(build_network("espnet_c", 5, p=1, q=1), TaskLoss(weight=0.25), {})
    assert objective.weights_at(0.5) == {"cross_entropy": 0.25}


# ------------------------------------------------------------------------------------- teachers on real images

# Random weights teach nothing worth knowing, and train.py would refuse them; here the mechanics alone are looked at.
SEGFORMER = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 40, 64], "decoder_hidden_size": 32}
TERMS = {
    "hf": "pi cwd:on=logits pa:on=context fitnet:on=layer4",
    "smp": "pi cwd:on=logits pa:on=context fitnet:on=layer4",
    "timm": "pa:on=layer4:context fitnet:on=layer4:context",
}


def random_teacher(library, folder):
    torch.manual_seed(0)
    if library == "hf":
        pytest.importorskip("transformers")
        (folder / "segformer.json").write_text(json.dumps({"model_type": "segformer", **SEGFORMER}))
        return build_network(f"hf:{folder / 'segformer.json'}", 11)
    if library == "smp":
        pytest.importorskip("segmentation_models_pytorch")
        return build_network("smp:fpn", 11, encoder_name="resnet18")
    pytest.importorskip("timm")
    return build_network("timm:vit_tiny_patch16_224", 0)


@pytest.mark.slow
@pytest.mark.skipif("SEGDISTILL_DATA" not in os.environ, reason="SEGDISTILL_DATA (folder of real data) is not set")
@pytest.mark.parametrize("library", TERMS)
def test_a_network_of_another_library_teaches_a_pspnet(library, tmp_path):
    network = random_teacher(library, tmp_path)
    folder = Path(os.environ["SEGDISTILL_DATA"]) / "camvid"
    train_set = CamVid(folder, "train", transform=RandomCrop((64, 64), (0.5, 1.0), mirror=True))
    teacher = Teacher(network, network.normalization or CamVid.NORMALIZATION, CamVid.NORMALIZATION)
    torch.manual_seed(0)
    student = build_network("pspnet", 11, backbone="resnet18_v1s")
    given = [(word.partition(":")[0], word.partition(":")[2].partition("=")) for word in TERMS[library].split()]
    terms = name_terms([(flag, {key: value} if key else {}) for flag, (key, _, value) in given])
    task_loss = None if library == "timm" else TaskLoss()
    objective = Objective(student, task_loss, build_losses(terms, student, teacher.network))
    adapters = {name: value.clone() for name, value in objective.losses.named_parameters()}
    assert adapters
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    learner = Learner(objective, torch.optim.SGD(parameters, 1e-2, 0.9), clip_norm=10.0)
    rows = []
    for keys in TrainSampler(len(train_set), 2, 20, seed=0):
        sample = torch.utils.data.default_collate([train_set[key] for key in keys])
        for batch in make_batches(sample, CamVid.NORMALIZATION):
            learner.accumulate(batch, teacher(batch, learner.wanted))
        rows.append(learner.update())
    expected = {"timm": {"pa", "fitnet"}}.get(library, {"cross_entropy", "pi", "cwd", "pa", "fitnet"})
    assert {name for name in rows[0] if name.startswith("loss/")} == {f"loss/{name}" for name in expected}
    assert all(torch.tensor(list(row.values())).isfinite().all() for row in rows)
    early, late = (sum(row["loss"] for row in part) / len(part) for part in (rows[:5], rows[-5:]))
    assert late < early
    assert all(not torch.equal(adapters[name], value) for name, value in objective.losses.named_parameters())
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
