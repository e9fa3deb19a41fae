import copy

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.dataset import Normalization, build_dataset
from segdistill.dataset.normalization import CAFFE, IMAGENET
from segdistill.network import build_network
from segdistill.utils.checkpoint import atomic_save, export_weights
from segdistill.utils.evaluate import predict
from segdistill.utils.teacher import Teacher

CONVENTIONS = [
    IMAGENET,
    CAFFE,
    Normalization("BGR", (110.3, 108.4, 105.0), (72.1, 72.7, 69.9), 1 / 255),
    Normalization("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1 / 255),
]


@pytest.fixture
def camvid(tmp_path):
    """Two validation images: the left half is sky (0), the right half road (3)."""
    label = np.zeros((32, 64), dtype=np.uint8)
    label[:, 32:] = 3
    for name in ("a", "b"):
        for path, array in (("val", np.repeat(label[..., None] * 80, 3, 2)), ("valannot", label)):
            (tmp_path / path).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / path / f"{name}.png")
    return build_dataset("camvid", tmp_path, "val")


def make_teacher(num_classes=11, **options):
    torch.manual_seed(0)
    network = build_network("pspnet", num_classes, "resnet18")
    return Teacher(network, IMAGENET, IMAGENET, **options)


def test_a_teacher_stays_in_eval_mode_and_answers_the_same_after_train():
    teacher = make_teacher()
    batch = torch.randn(2, 3, 64, 64)
    before = teacher(batch).logits
    teacher.train()
    assert not teacher.training
    assert not any(module.training for module in teacher.network.modules())
    assert torch.equal(teacher(batch).logits, before)


def test_a_teacher_shows_nothing_to_optimizers_checkpoints_and_wrappers():
    holder = torch.nn.ModuleDict({"teacher": make_teacher()})
    assert list(holder.parameters()) == list(holder.buffers()) == []
    assert holder.state_dict() == {}


def test_nothing_of_a_teacher_changes_when_a_student_learns_from_it():
    teacher = make_teacher()
    before = copy.deepcopy(teacher.network.state_dict())
    student = build_network("espnet_c", 11, q=2)
    optimizer = torch.optim.SGD([*student.parameters(), *teacher.parameters()], 0.1)
    for _ in range(2):
        batch = torch.randn(2, 3, 64, 64)
        target = torch.nn.functional.interpolate(teacher(batch).logits, size=(8, 8))
        (student(batch).logits - target).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(before[key], value) for key, value in teacher.network.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.network.parameters())


def test_a_teacher_keeps_no_graph_and_skips_the_auxiliary_head():
    output = make_teacher()(torch.randn(1, 3, 64, 64, requires_grad=True), features=("context",))
    assert not output.logits.requires_grad
    assert not output.features["context"].requires_grad
    assert output.aux_logits is None


@pytest.mark.parametrize("student", CONVENTIONS)
@pytest.mark.parametrize("own", CONVENTIONS)
def test_the_students_batch_reaches_the_teacher_in_its_own_convention(student, own):
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(student.convert(student(images), own), own(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(student.invert(student(images)), images.float(), rtol=0, atol=1e-3)


def test_equal_conventions_cost_nothing():
    batch = torch.randn(1, 3, 4, 4)
    assert IMAGENET.convert(batch, Normalization()) is batch


def test_normalisation_orders_channels_and_scales():
    images = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    convention = Normalization("BGR", (1.0, 2.0, 3.0), (2.0, 2.0, 2.0), 0.5)
    assert convention(images).flatten().tolist() == [7.25, 4.5, 1.75]


def test_a_teacher_is_read_from_a_file_and_says_what_it_is(camvid, tmp_path):
    network = build_network("pspnet", 11, "resnet18")
    atomic_save(export_weights(network, CAFFE), tmp_path / "teacher.pth")
    teacher = Teacher.from_checkpoint(tmp_path / "teacher.pth", IMAGENET)
    assert teacher.normalization == CAFFE
    teacher._hidden = (Oracle(),)
    card = teacher.verify(camvid)
    assert (card["num_classes"], card["num_images"], card["family"]) == (11, 2, "segdistill")
    assert card["mean_iou"] == 1.0
    assert len(card["sha256"]) == 64


class Oracle(torch.nn.Module):
    """Tells sky from road by brightness."""

    num_classes = 11

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images, features=(), aux=True):
        logits = torch.zeros(len(images), 11, *images.shape[2:])
        logits[:, 0] = -images[:, 0]
        logits[:, 3] = images[:, 0]
        return build_output(logits)


def build_output(logits):
    from segdistill.network import SegmentationOutput

    return SegmentationOutput(logits, None, {})


def test_an_untrained_teacher_is_refused(camvid):
    with pytest.raises(ValueError, match="no better than one class everywhere"):
        make_teacher(source="random.pth").verify(camvid)


def test_a_teacher_of_other_classes_is_refused(camvid):
    with pytest.raises(ValueError, match="19 classes, CamVid has 11"):
        make_teacher(num_classes=19).verify(camvid)


def test_a_missing_teacher_stops_with_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        Teacher.from_checkpoint(tmp_path / "nothing.pth", IMAGENET)


def test_prediction_leaves_the_mode_as_it_was():
    network = build_network("espnet_c", 11, q=2).train()
    before = copy.deepcopy(network.state_dict())
    ids = predict(network, torch.randint(0, 256, (1, 3, 40, 56), dtype=torch.uint8), IMAGENET)
    assert (ids.shape, ids.dtype, network.training) == ((1, 40, 56), torch.uint8, True)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
