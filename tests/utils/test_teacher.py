import copy
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.dataset import Normalization, build_dataset
from segdistill.dataset.normalization import CAFFE, CONVENTIONS, IMAGENET, parse_normalization
from segdistill.dataset.transforms import RandomCrop
from segdistill.network import LoadReport, SegmentationNetwork, build_network
from segdistill.network.base import Feature
from segdistill.network.weights.checkpoint import atomic_save, export_weights
from segdistill.utils.batch import Batch
from segdistill.utils.classes import match_classes
from segdistill.utils.predict import whole
from segdistill.utils.teacher import Inference, Teacher, own_scale

EXAMPLES = [
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


def make_teacher(num_classes=11, source=None, **options):
    torch.manual_seed(0)
    network = build_network("pspnet", num_classes, backbone="resnet18_v1s")
    return Teacher(network, IMAGENET, IMAGENET, Inference(**options), source=source)


def batch_of(images):
    return Batch(images, torch.empty(0), torch.empty(0), torch.tensor(1.0), 0.0)


def report_of(**fields):
    return LoadReport("other", [], [], [], IMAGENET, "0", {"name": "other"}, **fields)


def test_a_teacher_stays_in_eval_mode_and_answers_the_same_after_train():
    teacher = make_teacher()
    batch = torch.randn(2, 3, 64, 64)
    before = teacher(batch_of(batch), {"logits"}).logits
    teacher.train()
    assert not teacher.training
    assert not any(module.training for module in teacher.network.modules())
    assert torch.equal(teacher(batch_of(batch), {"logits"}).logits, before)


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
        target = torch.nn.functional.interpolate(teacher(batch_of(batch), {"logits"}).logits, size=(8, 8))
        (student(batch).logits - target).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(before[key], value) for key, value in teacher.network.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.network.parameters())


def test_a_teacher_keeps_no_graph_and_answers_what_it_is_asked_alone():
    teacher = make_teacher()
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    output = teacher(batch_of(images), {"layer4"})
    assert output.logits is None
    assert output.features.keys() == {"layer4"}
    assert not output.features["layer4"].requires_grad
    assert teacher(batch_of(images), {"aux_logits"}).features["aux_logits"].shape[:2] == (1, 11)
    with pytest.raises(ValueError, match="no feature layer9"):
        teacher(batch_of(images), {"layer9"})


@pytest.mark.parametrize("student", EXAMPLES)
@pytest.mark.parametrize("own", EXAMPLES)
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
    network = build_network("pspnet", 11, backbone="resnet18_v1s")
    atomic_save(export_weights(network, CAFFE), tmp_path / "teacher.pth")
    teacher = Teacher.from_checkpoint(tmp_path / "teacher.pth", IMAGENET)
    assert teacher.normalization == CAFFE
    teacher._hidden = (Oracle(),)
    measured = teacher.verify(camvid)
    assert (measured["num_classes"], measured["num_images"], measured["family"]) == (11, 2, "segdistill")
    assert measured["mean_iou"] == 1.0
    assert len(measured["sha256"]) == 64


class Oracle(SegmentationNetwork):
    """Tells sky from road by brightness; ``constant`` calls everything by the class with the most pixels."""

    def __init__(self, constant=False):
        super().__init__()
        self.num_classes, self.features = 11, {"logits": Feature(11, 1)}
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.constant = constant

    def maps(self, images, wanted):
        logits = torch.zeros(len(images), 11, *images.shape[2:])
        logits[:, 0] = -images[:, 0]
        logits[:, 3] = 1e4 if self.constant else images[:, 0]
        return {"logits": logits}


class Unit(Oracle):
    """Tells sky from road only where its input is x / 255: with a mean taken off both are dark."""

    def __init__(self, dark=0.1):
        super().__init__()
        self.dark = dark

    def maps(self, images, wanted):
        logits = torch.zeros(len(images), 11, *images.shape[2:])
        logits[:, 0], logits[:, 3] = self.dark, images[:, 0]
        return {"logits": logits.masked_fill(images.amin((1, 2, 3)).view(-1, 1, 1, 1) < 0, 0.0)}


def test_a_teacher_in_a_wrong_convention_is_refused_with_the_one_that_is_right(camvid):
    teacher = make_teacher(source="unit.pth")
    teacher._hidden = (Unit(),)
    with pytest.raises(ValueError, match=r"unit\.pth scores .* and 100\.00 with unit: --teacher-normalization unit"):
        teacher.verify(camvid)
    teacher.normalization = CONVENTIONS["unit"]
    assert teacher.verify(camvid)["mean_iou"] == 1.0


def test_a_convention_that_is_a_little_better_is_mentioned(camvid, monkeypatch, caplog):
    scores = {IMAGENET: 0.5, CONVENTIONS["half"]: 0.55}
    monkeypatch.setattr(
        "segdistill.utils.teacher.evaluate",
        lambda predictor, dataset, normalization, indices, **_: SimpleNamespace(
            figures=lambda: {"mean_iou": scores.get(normalization, 0.1)}, best_constant=lambda: 0.2
        ),
    )
    teacher = make_teacher(source="a.pth")
    assert teacher.verify(camvid)["mean_iou"] == 0.5
    assert "scores 50.00 mIoU" in caplog.text
    assert "55.00 with half: --teacher-normalization half" in caplog.text
    caplog.clear()
    scores[IMAGENET] = 0.54
    teacher.verify(camvid)
    assert not caplog.text


def test_a_plain_state_dict_in_our_keys_is_taken_for_imagenet_s_and_that_is_said(camvid, tmp_path, caplog):
    torch.save(build_network("segformer", 11, backbone="mit_b0").state_dict(), tmp_path / "bare.pth")
    given = ("segformer", CAFFE, tmp_path / "bare.pth", 11, {"backbone": "mit_b0"})
    assert Teacher.from_network(*given, dataset=camvid).normalization == IMAGENET
    assert "does not say its input convention (--teacher-normalization" in caplog.text
    assert Teacher.from_network(*given, dataset=camvid, normalization=CAFFE).normalization == CAFFE


@pytest.mark.parametrize("encoder", ["tu-resnet10t", "tu-mobilevitv2_050"])
def test_a_plain_state_dict_of_smp_is_fed_as_its_encoder_says(encoder, tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    given = smp.encoders.get_preprocessing_params(encoder)
    model = smp.Unet(encoder, encoder_weights=None, classes=3)
    torch.save(model.state_dict(), tmp_path / "smp.pth")
    teacher = Teacher.from_network("smp:unet", CAFFE, tmp_path / "smp.pth", 3, {"encoder_name": encoder})
    image = torch.full((1, 3, 1, 1), 100, dtype=torch.uint8)
    expected = (100 / 255 - torch.tensor(given["mean"])) / torch.tensor(given["std"])
    torch.testing.assert_close(teacher.normalization(image).flatten(), expected)


def test_one_class_everywhere_is_no_teacher_however_few_classes_occur(camvid):
    """Two of eleven classes occur: road everywhere scores a quarter, which is more than 1 / 11."""
    teacher = make_teacher(source="constant.pth")
    teacher._hidden = (Oracle(constant=True),)
    with pytest.raises(ValueError, match=r"constant\.pth scores 25\.00 mIoU.*a constant prediction \(25\.00\)"):
        teacher.verify(camvid)


def test_a_teacher_of_other_class_names_is_refused(camvid, tmp_path):
    names = [*camvid.CLASSES[:-1], "cyclist"]
    atomic_save(export_weights(build_network("espnet_c", 11, q=1), IMAGENET, classes=names), tmp_path / "teacher.pth")
    with pytest.raises(ValueError, match=r"not the same(.|\n)*cyclist\n.*bicyclist"):
        Teacher.from_checkpoint(tmp_path / "teacher.pth", IMAGENET).verify(camvid)


def test_images_without_labels_verify_nobody(camvid):
    camvid.ID_TO_TRAIN_ID = {0: 255, 3: 255}
    with pytest.raises(ValueError, match="no pixel of 2 images"):
        make_teacher().verify(camvid)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bgr", (0, 0, 0), (1, 1, 1)), "channels are RGB or BGR, not 'bgr'"),
        (("RGB", (0, 0, 0), (1, 0, 1)), "std or a scale of 0"),
        (("RGB", (0, 0, 0), (1, 1, 1), 0.0), "std or a scale of 0"),
        (("RGB", (0, 0, float("nan")), (1, 1, 1)), "three finite means"),
        (("RGB", (0, 0), (1, 1, 1)), "three finite means"),
    ],
)
def test_a_convention_that_means_nothing_is_an_error(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Normalization(*arguments)
    content = export_weights(build_network("espnet_c", 11, q=1), IMAGENET)
    atomic_save({**content, "normalization": arguments}, tmp_path / "teacher.pth")
    with pytest.raises(ValueError, match=rf"teacher\.pth: .*{message}"):
        Teacher.from_checkpoint(tmp_path / "teacher.pth", IMAGENET)


def test_a_convention_is_named_or_written_out():
    assert parse_normalization("caffe") == CAFFE
    assert parse_normalization("BGR:1,2,3:4,5,6") == Normalization("BGR", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    for text in ("cafe", "RGB:1,2,3", "RGB:1,2,x:1,1,1", "RGB:1,2,3:1,1,1:2"):
        with pytest.raises(ValueError, match=r"expected imagenet, unit, caffe, half or RGB:mean,mean,mean:std"):
            parse_normalization(text)
    with pytest.raises(ValueError, match="times 255"):
        parse_normalization("RGB:0.485,0.456,0.406:0.229,0.224,0.225")


def test_an_untrained_teacher_is_refused(camvid):
    with pytest.raises(ValueError, match="no better than a constant prediction"):
        make_teacher(source="random.pth").verify(camvid)


def test_a_teacher_of_other_classes_is_refused(camvid):
    with pytest.raises(ValueError, match="19 classes, CamVid has 11"):
        make_teacher(num_classes=19).verify(camvid)


def test_a_class_map_of_a_teacher_without_classes_is_refused(camvid):
    network = build_network("espnet_c", 1, p=1, q=1, depth=(2.0, 80.0))
    with pytest.raises(ValueError, match=r"--class-map x\.txt has no effect with teacher far\.pth, which has no"):
        Teacher.from_report(network, None, "far.pth", IMAGENET, camvid, class_map="x.txt")


def test_a_teacher_of_other_classes_answers_in_the_students(camvid, tmp_path):
    names = [f"class {i}" for i in range(12)]
    network = build_network("pspnet", 12, backbone="resnet18_v1s").eval()
    atomic_save(export_weights(network, IMAGENET, classes=names), tmp_path / "teacher.pth")
    lines = [f"class {i} -> {i}\n" for i in range(10)] + ["class 10 -> 9\n", "class 11 -> none\n"]
    (tmp_path / "classes.txt").write_text("".join(lines))
    with pytest.raises(ValueError, match="--class-map"):
        Teacher.from_checkpoint(tmp_path / "teacher.pth", IMAGENET, dataset=camvid)
    teacher = Teacher.from_checkpoint(
        tmp_path / "teacher.pth", IMAGENET, dataset=camvid, class_map=tmp_path / "classes.txt"
    )
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = network(images, {"logits", "aux_logits", "layer4"}).features
    output = teacher(batch_of(images), {"logits", "aux_logits", "layer4"})
    assert teacher.network.known_classes == tuple(range(10))
    assert torch.equal(output.features["layer4"], expected["layer4"])
    for name in ("logits", "aux_logits"):
        own = expected[name][:, :11].softmax(1)
        merged = torch.cat([own[:, :9], own[:, 9:].sum(1, keepdim=True), torch.zeros_like(own[:, :1])], 1)
        torch.testing.assert_close(output.features[name].softmax(1), merged, rtol=1e-4, atol=1e-5)
    assert output.logits is output.features["logits"]


def test_a_release_that_counts_void_teaches_without_it(camvid, tmp_path):
    network = build_network("espnet", 12, p=2, q=3, skip="fused")
    atomic_save(network.state_dict(), tmp_path / "teacher.pth")
    teacher = Teacher.from_checkpoint(tmp_path / "teacher.pth", IMAGENET, dataset=camvid)
    assert teacher(batch_of(torch.randn(1, 3, 32, 64)), {"logits"}).logits.shape[1] == 11
    assert teacher.network.known_classes is None


def test_a_teacher_sees_the_images_at_the_size_that_its_network_was_trained_on(camvid, monkeypatch):
    seen = []
    teacher = make_teacher(scale=0.5)
    monkeypatch.setattr(teacher.network, "maps", lambda images, wanted: seen.append(images) or {"layer4": images})
    images = torch.rand(1, 3, 1, 64).repeat(1, 1, 32, 1)
    teacher(batch_of(images), {"layer4"})
    torch.testing.assert_close(seen[0].mean(), images.mean(), rtol=0.01, atol=0)
    assert seen[0].shape == (1, 3, 16, 32)
    # Images of 32x64 where 16x32 were learnt from.
    assert own_scale(report_of(input_size=(16, 32)), camvid) == 0.5
    assert own_scale(report_of(), camvid) == 1.0


def test_a_teacher_is_measured_as_it_teaches(camvid):
    """At a scale of 1/2 the network sees images of half the size; the output is scored at full size."""
    teacher = make_teacher(scale=0.5)
    teacher._hidden = (Oracle(),)
    measured = teacher.verify(camvid)
    assert (measured["mean_iou"] > 0.9, measured["scale"]) == (True, 0.5)


@pytest.fixture
def crops(camvid):
    """Forty training samples, many of them padded, the last ten without a label."""
    for name in range(40):
        for folder in ("", "annot"):
            (camvid.root / f"train{folder}").mkdir(exist_ok=True)
            shutil.copy(camvid.root / f"val{folder}/a.png", camvid.root / f"train{folder}/{name:02}.png")
    dataset = build_dataset("camvid", camvid.root, "train", transform=RandomCrop((32, 64), (0.5, 1.0), True))
    dataset.pairs = [*dataset.pairs[:30], *(pair._replace(label=None) for pair in dataset.pairs[30:])]
    dataset.num_labelled = 30
    return dataset


class Doubtful(Oracle):
    """Gives 3 to 1 for the right one of two classes; of padding, which has the mean colour, it knows nothing."""

    def maps(self, images, wanted):
        logits = torch.full((len(images), 11, *images.shape[2:]), float("-inf"))
        logits[:, 0] = 0
        logits[:, 3] = math.log(3) * images[:, 0].sign().masked_fill(images[:, 0].abs() < 0.01, 0)
        return {"logits": logits}


def test_a_teacher_is_measured_on_the_crops_that_it_will_label(camvid, crops, monkeypatch):
    asked = []
    get = type(crops).__getitem__
    monkeypatch.setattr(type(crops), "__getitem__", lambda self, key: asked.append(key) or get(self, key))
    teacher = make_teacher()
    teacher._hidden = (Doubtful(),)
    before = torch.get_rng_state()
    figures = teacher.measure_crops(crops)
    assert torch.equal(torch.get_rng_state(), before)
    assert asked == list(range(30))
    assert (figures["num_crops"], figures["classes"]) == (30, list(crops.CLASSES))
    assert figures["mean_iou"] == pytest.approx(1, abs=0.1)  # its border lies where the images were resized
    assert [i for i, iou in enumerate(figures["iou"]) if iou is not None] == [0, 3]
    assert figures["entropy"] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25), abs=1e-3)
    assert teacher.measure_crops(crops) == figures
    asked.clear()
    assert teacher.measure_crops(crops, num_crops=4)["num_crops"] == 4
    assert asked == [0, 7, 15, 22]


def test_crops_are_measured_as_a_teacher_teaches(camvid, crops, monkeypatch):
    """Through its class map, which makes this one wrong, and at its scale; and it is not refused for that."""
    names = [f"class {i}" for i in range(11)]
    lines = [f"class {i} -> {3 - i}\n" for i in range(4)] + [f"class {i} -> none\n" for i in range(4, 11)]
    (camvid.root / "classes.txt").write_text("".join(lines))
    seen = []
    maps = Doubtful.maps
    monkeypatch.setattr(
        Doubtful, "maps", lambda self, images, wanted: seen.append(images.shape[2:]) or maps(self, images, wanted)
    )
    mapped = match_classes(Doubtful(), report_of(classes=names), "swapped", camvid, camvid.root / "classes.txt")
    teacher = Teacher(Doubtful(), IMAGENET, IMAGENET, Inference(scale=0.5), mapped)
    with pytest.raises(ValueError, match="no better than a constant prediction"):
        teacher.verify(camvid)
    assert teacher.measure_crops(crops)["mean_iou"] < 0.1
    assert set(seen) == {(16, 32)}


def test_without_labels_or_classes_there_are_no_crops_to_measure(crops):
    assert Teacher(Backbone(), IMAGENET, IMAGENET).measure_crops(crops) is None
    crops.pairs = crops.pairs[30:]
    assert make_teacher().measure_crops(crops) is None


def test_a_missing_teacher_stops_with_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        Teacher.from_checkpoint(tmp_path / "nothing.pth", IMAGENET)


def test_prediction_leaves_the_mode_as_it_was():
    network = build_network("espnet_c", 11, q=2).train()
    before = copy.deepcopy(network.state_dict())
    logits = whole(network)(torch.randn(1, 3, 40, 56))
    assert (logits.shape, network.training) == ((1, 11, 40, 56), True)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


class Backbone(SegmentationNetwork):
    """Without classes; its one map is the image, an offset, or what ``spoil`` makes of them."""

    def __init__(self, spoil=lambda images: images):
        super().__init__()
        self.num_classes, self.features = 0, {"context": Feature(3, 1)}
        self.offset, self.spoil = torch.nn.Parameter(torch.ones(1)), spoil

    def maps(self, images, wanted):
        return {"context": self.spoil(images) + self.offset}


@pytest.fixture
def two_images(camvid):
    """The data set of two images, the second of which is darker."""
    path = camvid.root / "val" / "b.png"
    Image.fromarray(np.array(Image.open(path)) // 2).save(path)
    return camvid


def test_a_teacher_without_classes_is_verified_by_its_features(two_images):
    measured = Teacher(Backbone(), IMAGENET, IMAGENET, source="backbone").verify(two_images)
    assert (measured["num_classes"], measured["num_images"], measured["mean_iou"]) == (0, 2, None)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda images: images / 0, "is not finite"),
        (lambda images: images.mean((2, 3), keepdim=True).expand_as(images), "is the same all over an image"),
        (lambda images: torch.linspace(0, 1, images[0].numel()).view_as(images), "is the same for two images"),
    ],
)
def test_features_that_cannot_teach_are_refused(spoil, message, two_images):
    with pytest.raises(ValueError, match=f"teacher backbone: its feature context {message}"):
        Teacher(Backbone(spoil), IMAGENET, IMAGENET, source="backbone").verify(two_images)


def test_a_network_without_weights_is_no_teacher():
    with pytest.raises(ValueError, match=r"pspnet without weights is untrained.*--T_ckpt_path"):
        Teacher.from_network("pspnet", IMAGENET)


def test_a_file_and_a_network_that_do_not_agree_are_an_error(tmp_path):
    atomic_save(export_weights(build_network("espnet_c", 11, q=1), CAFFE), tmp_path / "teacher.pth")
    with pytest.raises(ValueError, match=r"teacher\.pth holds a espnet_c, not a pspnet"):
        Teacher.from_network("pspnet", IMAGENET, tmp_path / "teacher.pth", 11)
    with pytest.raises(ValueError, match=r"teacher\.pth: it holds .*'q': 1.*not .*'q': 2"):
        Teacher.from_network("espnet_c", IMAGENET, tmp_path / "teacher.pth", 11, {"q": 2})
    teacher = Teacher.from_network("espnet_c", IMAGENET, tmp_path / "teacher.pth", 11, {"q": 1})
    assert (teacher.normalization, teacher.report.config["q"]) == (CAFFE, 1)


def test_a_plain_state_dict_is_loaded_into_the_named_network(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    model = timm.create_model("resnet10t").eval()
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    teacher = Teacher.from_network("timm:resnet10t", IMAGENET, tmp_path / "timm.pth", 11)
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(
        teacher(batch_of(images), {"context"}).features["context"], model.forward_features(images)
    )
    assert (teacher.report.family, len(teacher.report.sha256)) == ("timm", 64)
    assert teacher.report.skipped == ["model.fc.bias", "model.fc.weight"]
    with pytest.raises(ValueError, match="backbone only, not a timm:resnet18"):
        Teacher.from_network("timm:resnet18", IMAGENET, tmp_path / "timm.pth", 11)


def test_a_network_of_the_library_is_told_from_another_by_its_weights(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(hidden_size=16, num_hidden_layers=4, num_attention_heads=2)
    digests = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        transformers.Dinov2Model(config).save_pretrained(tmp_path)
        settings = {"pretrained": True}
        with pytest.raises(ValueError, match=r"does not say its input convention \(--teacher-normalization imagenet"):
            Teacher.from_network(f"hf:{tmp_path}", IMAGENET, settings=settings)
        teacher = Teacher.from_network(f"hf:{tmp_path}", IMAGENET, settings=settings, normalization=IMAGENET)
        digests.append(teacher.report.sha256)
    assert digests[0] == digests[1] != digests[2]
    assert (teacher.source, teacher.report.family, teacher.network.num_classes) == (f"hf:{tmp_path}", "hf", 0)


def test_a_stride_samples_what_is_finer_and_leaves_the_rest():
    own, coarse = make_teacher(), make_teacher(stride=16)
    images = torch.randn(2, 3, 72, 90)
    wanted = {"layer1", "layer4", "logits"}
    expected, output = own(batch_of(images), wanted).features, coarse(batch_of(images), wanted).features
    limit = (5, 6)  # 72 / 16 and 90 / 16, rounded up
    for name in wanted:
        size = expected[name].shape[2:]
        assert all(side > most for side, most in zip(size, limit, strict=True))
        assert output[name].shape[2:] == limit
        # The corners lie on the corners, so they are outputs of the network itself.
        torch.testing.assert_close(output[name][..., ::4, ::5], expected[name][..., :: size[0] - 1, :: size[1] - 1])
    unchanged = make_teacher(stride=2)(batch_of(images), wanted).features
    assert all(torch.equal(unchanged[name], expected[name]) for name in wanted)


def test_bfloat16_is_the_teachers_alone():
    images = torch.randn(2, 3, 64, 64)
    exact = make_teacher()(batch_of(images), {"logits"}).logits
    rounded = make_teacher(precision="bf16")(batch_of(images), {"logits"}).logits
    assert rounded.dtype == torch.bfloat16
    assert 0 < (rounded.float() - exact).abs().max() < 0.05 * exact.abs().max()
    with torch.autocast("cpu", torch.bfloat16):  # the student's
        assert torch.equal(make_teacher()(batch_of(images), {"logits"}).logits, exact)


@pytest.mark.slow
def test_a_compiled_teacher_says_the_same():
    network, images = build_network("espnet_c", 5, p=1, q=1), torch.randn(2, 3, 64, 64)
    teachers = (Teacher(network, IMAGENET, IMAGENET, Inference(compiled=compiled)) for compiled in (False, True))
    expected, output = (teacher(batch_of(images), {"layer3", "logits"}) for teacher in teachers)
    for name, value in expected.features.items():
        torch.testing.assert_close(output.features[name], value, rtol=1e-4, atol=1e-4)
