"""Pictures without labels: the teacher's classes, agreement with it, and its predictions kept as labels."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import eval as evaluation
import test as prediction
import train
from segdistill.dataset import CamVid, build_dataset
from segdistill.dataset.cache import open_cache
from segdistill.dataset.normalization import IMAGENET
from segdistill.network import build_network, load_network
from segdistill.network.weights.checkpoint import atomic_save, export_weights
from segdistill.utils.batch import without_unsure
from segdistill.utils.losses import PixelWise
from segdistill.utils.pseudo_labels import write_folder
from segdistill.utils.teacher import Teacher
from segdistill.utils.video import VideoWriter

STUDENT = ("--network", "espnet_c", "--network-options", "p=1", "q=1", "--input-size", "32,32", "--batch-size", "2")
STUDENT += ("--num-workers", "0")


@pytest.fixture
def photos(tiny, tmp_path):
    """Eight pictures in nested folders, a file that is no picture, and a hidden folder."""
    folder = tmp_path / "photos"
    (folder / "deep/er").mkdir(parents=True)
    (folder / ".thumbnails").mkdir()
    sources = sorted((tiny / "camvid").glob("*/?.png"))
    images = [path for path in sources if not path.parent.name.endswith("annot")]
    for number, path in enumerate(images):
        shutil.copy(path, folder / ("deep/er" if number % 2 else "deep") / f"{path.parent.name}_{path.name}")
    shutil.copy(images[0], folder / ".thumbnails/small.png")
    (folder / "notes.txt").write_text("nothing to see")
    return folder


@pytest.fixture
def learn(tiny, photos, tmp_path):
    def run(*arguments, name="run", steps=2):
        words = ["--dataset", "images", "--data-dir", photos, "--snapshot-dir", tmp_path, "--save-name", name]
        teacher = [] if "--teacher-network" in arguments else ["--T_ckpt_path", tiny / "teacher.pth"]
        assert train.main([*map(str, [*words, *teacher, *STUDENT, "--num-steps", steps, *arguments])]) == 0
        return tmp_path / name

    return run


def test_every_picture_is_in_one_split(photos, caplog):
    train_set, val_set = (build_dataset("images", photos, split) for split in ("train", "val"))
    names = [{pair.image.name for pair in dataset.pairs} for dataset in (train_set, val_set)]
    assert len(names[0]) == 7
    assert len(names[1]) == 1
    assert not names[0] & names[1]
    assert "notes.txt" in caplog.text
    assert (train_set[0].label == 255).all()


def test_one_picture_is_too_few(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match="holds one picture; two are the least"):
        build_dataset("images", tmp_path, "train")


def test_videos_give_a_frame_a_second_once(tmp_path):
    with VideoWriter(tmp_path / "film/drive.mp4", rate=2) as video:
        for value in range(6):
            video.add(np.full((32, 48, 3), 40 * value, np.uint8))
    (tmp_path / "film/short.txt").touch()
    train_set, val_set = (build_dataset("images", tmp_path, split) for split in ("train", "val"))
    brightness = [int(dataset[i].image.float().mean()) for dataset in (train_set, val_set) for i in range(len(dataset))]
    assert sorted(brightness) == pytest.approx([0, 80, 160], abs=6)
    frames = sorted((tmp_path / ".frames/film/drive.mp4").iterdir())
    before = [frame.stat().st_mtime_ns for frame in frames]
    build_dataset("images", tmp_path, "train")
    assert [frame.stat().st_mtime_ns for frame in frames] == before


def test_a_student_takes_the_teachers_classes_and_is_scored_by_agreement(learn, tiny):
    run = learn()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert 0 <= rows[-1]["val/agreement_mean_iou"] <= 1
    assert not any(key in row for row in rows for key in ("val/mean_iou", "loss/cross_entropy"))
    _, report = load_network(run / "best.pth")
    assert report.classes == CamVid.CLASSES
    assert report.palette == CamVid.PALETTE
    text = (run / "report.md").read_text()
    assert "mIoU with the teacher" in text
    assert "whose predictions are the labels" in text
    width, height = Image.open(run / "predictions.png").size
    assert (width, height) == (3 * 64, 64)


def test_the_teacher_agrees_with_itself(photos, tiny, tmp_path):
    teacher = str(tiny / "teacher.pth")
    words = ["--dataset", "images", "--data-dir", str(photos), "--checkpoint", teacher, "--output", str(tmp_path / "e")]
    evaluation.main([*words, "--T_ckpt_path", teacher])
    figures = json.loads((tmp_path / "e").read_text())
    assert figures["agreement_mean_iou"] == 1
    assert figures["protocol"]["teacher"] == figures["sha256"]
    assert "mean_iou" not in figures
    with pytest.raises(SystemExit):
        evaluation.main(words)


def test_pictures_that_a_cache_holds_have_the_labels_of_the_teacher_at_hand(photos, tmp_path):
    for value in (1, 2):
        dataset = build_dataset("images", photos, "val")
        dataset.take_labels([torch.full((64, 64), value, dtype=torch.uint8)])
        dataset.memory = open_cache(dataset, tmp_path / "cache")
        assert (dataset[0].label == value).all()
        assert (dataset[0, 0].label == value).all()


def test_eval_scores_as_the_training_did_with_what_its_teacher_was_given(learn, photos, tiny, tmp_path, capsys):
    seen = ["--teacher-normalization", "caffe", "--teacher-scale", "0.5"]
    run = learn(*seen)
    validated = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["val/agreement_mean_iou"]
    words = ["--dataset", "images", "--data-dir", photos, "--checkpoint", run / "best.pth", "--output", tmp_path / "e"]
    words = [*map(str, [*words, "--T_ckpt_path", tiny / "teacher.pth"])]
    evaluation.main(words)
    assert json.loads((tmp_path / "e").read_text())["agreement_mean_iou"] != pytest.approx(validated, abs=1e-3)
    evaluation.main([*words, *seen])
    figures = json.loads((tmp_path / "e").read_text())
    assert figures["agreement_mean_iou"] == pytest.approx(validated, abs=1e-3)
    assert (figures["protocol"]["teacher_normalization"], figures["protocol"]["teacher_scale"]) == ("caffe", 0.5)
    assert "; its input caffe; its images at 0.5 x" in capsys.readouterr().out
    with pytest.raises(ValueError, match="expected imagenet, unit"):
        evaluation.main([*words, "--teacher-normalization", "none", "--check"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--task-weight 1", "--task-weight has no effect with --dataset images"),
        ("--num-labels 2", "--num-labels has no effect with --task-weight 0"),
        ("--also alone=", "--task-weight 0 leaves nothing to learn from"),
    ],
)
def test_what_needs_labels_is_refused(learn, capsys, words, message):
    with pytest.raises(SystemExit):
        learn(*words.split())
    assert message in capsys.readouterr().err


def test_without_a_teacher_there_are_no_classes(photos, capsys):
    with pytest.raises(SystemExit):
        train.main(["--dataset", "images", "--data-dir", str(photos), "--pi"])
    assert "needs a teacher" in capsys.readouterr().err


def test_a_teacher_without_classes_distils_features_and_says_what_is_next(learn, caplog):
    teacher = ("--teacher-network", "timm:resnet10t", "--teacher-options", "pretrained=false")
    with pytest.raises(ValueError, match=r"has no classes for --pi: .*--fitnet on=STUDENTS:TEACHERS"):
        learn(*teacher, "--check")
    learn(*teacher, "--check", "--fitnet", "on=context:layer4", "--mix", "cutmix", name="features")
    with pytest.raises(ValueError, match="--mix classmix reads the classes"):
        learn(*teacher, "--check", "--fitnet", "on=context:layer4", "--mix", "classmix", name="classes")


def test_one_prediction_all_over_is_a_warning(photos, caplog):
    network = build_network("espnet_c", 3, p=1, q=1)
    torch.nn.init.zeros_(network.classifier.conv.weight)
    predictions = Teacher(network, IMAGENET, IMAGENET, source="blind.pth").predict(
        build_dataset("images", photos, "val")
    )
    assert (predictions[0] == 0).all()
    assert "blind.pth predicts 0 all over 1 images" in caplog.text


# --------------------------------------------------------------------------------------------------- pseudo labels


@pytest.fixture
def sure_teacher(tiny, tmp_path):
    """The teacher with logits so large that some of its probabilities are high."""
    network, report = load_network(tiny / "teacher.pth")
    network.classifier.conv.weight.data *= 300
    atomic_save(export_weights(network, report.normalization, classes=report.classes), tmp_path / "sure.pth")
    return tmp_path / "sure.pth"


def label(photos, checkpoint, output, *arguments):
    words = ["--images", photos, "--checkpoint", checkpoint, "--output", output, *arguments]
    return prediction.main([*map(str, words)])


def test_confident_predictions_become_a_data_set_that_trains(photos, sure_teacher, tmp_path):
    assert label(photos, sure_teacher, tmp_path / "labelled", "--save", "labels", "--min-confidence", 0.6) == 0
    labelled = build_dataset("folder", tmp_path / "labelled", "train")
    assert ("class 0", *labelled.CLASSES[1:]) == labelled.CLASSES or labelled.CLASSES == CamVid.CLASSES
    words = ["--dataset", "folder", "--data-dir", str(tmp_path / "labelled"), "--snapshot-dir", str(tmp_path)]
    assert train.main([*words, *STUDENT, "--num-steps", "1", "--save-name", "student"]) == 0


def test_pixels_below_the_confidence_are_void_and_others_are_the_prediction(photos, sure_teacher, tmp_path):
    label(photos, sure_teacher, tmp_path / "all", "--min-confidence", 0)
    label(photos, sure_teacher, tmp_path / "sure", "--min-confidence", 0.6)
    label(photos, sure_teacher, tmp_path / "rare", "--min-confidence", 0.6, "--keep-share", 0.3)
    every, sure, rare = (
        np.stack([np.array(Image.open(path)) for path in sorted((tmp_path / name / "labels").rglob("*.png"))])
        for name in ("all", "sure", "rare")
    )
    assert (every < 255).all()
    assert 0 < (sure < 255).mean() < 1
    assert np.array_equal(sure[sure < 255], every[sure < 255])
    assert ((sure < 255) <= (rare < 255)).all()
    for index in np.unique(every):
        assert (rare == index).sum() >= 0.3 * (every == index).sum() - 1


def test_a_folder_that_is_not_empty_is_left_alone(photos, tiny, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/work.txt").write_text("mine")
    with pytest.raises(ValueError, match="mine is not an empty folder"):
        label(photos, tiny / "teacher.pth", tmp_path / "mine", "--min-confidence", 0.5)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["work.txt"]


def test_nothing_is_left_of_a_data_set_that_failed(photos, tiny, tmp_path):
    (photos / "deep/zz.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"zz.png"):
        label(photos, tiny / "teacher.pth", tmp_path / "new", "--min-confidence", 0.1)
    assert not list(tmp_path.glob("*new*"))


def test_no_confident_pixel_is_an_error(photos, tiny, tmp_path):
    with pytest.raises(ValueError, match="no pixel of 8 pictures is predicted with 1 or more"):
        label(photos, tiny / "teacher.pth", tmp_path / "new", "--min-confidence", 1)


def test_a_released_void_class_is_never_kept(photos, tmp_path):
    """Ids beyond the data set's classes are void."""

    class Predictor:
        def __init__(self):
            self.predictor, self.report = self, self

        @staticmethod
        def normalization(images):
            return images.float()

        @staticmethod
        def coarse(images):
            logits = torch.zeros(1, 3, *images.shape[2:])
            logits[:, 2], logits[:, 0, :4] = 9, 99
            return logits

    pictures = {path.stem: path for path in sorted(photos.rglob("*.png"))}
    data = type("Two", (), {"CLASSES": ("a", "b"), "PALETTE": ((1, 2, 3), (4, 5, 6))})
    write_folder(Predictor(), pictures, data, tmp_path / "two", 0.5)
    values = np.array(Image.open(next((tmp_path / "two/labels").rglob("*.png"))))
    assert (values[:4] == 0).all()
    assert (values[4:] == 255).all()


# ------------------------------------------------------------------------------------------ confidence in training


def test_unsure_pixels_of_unlabelled_images_do_not_count(tmp_path):
    torch.manual_seed(0)
    batch = make_batch(torch.stack([torch.zeros(8, 8), torch.full((8, 8), 255)]).byte())
    teacher = torch.zeros(2, 3, 4, 4)
    teacher[:, 0, :2] = 9  # sure in the upper half
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    marked = without_unsure(batch, teacher, 0.9)
    term = PixelWise(weight=1.0)
    loss = term(output_of(student), output_of(teacher), marked)
    (gradient,) = torch.autograd.grad(loss, student)
    assert (gradient[0] != 0).all()  # the labelled image counts everywhere
    assert (gradient[1, :, :2] != 0).all()
    assert (gradient[1, :, 2:] == 0).all()
    plain = term(output_of(student), output_of(teacher), batch)
    assert torch.equal(plain, term(output_of(student), output_of(teacher), without_unsure(batch, teacher, 1e-3)))


def make_batch(labels):
    from segdistill.utils.batch import Batch

    return Batch(torch.zeros(2, 3, 8, 8), labels, torch.zeros(2, 2), torch.tensor(64.0), 0.0, torch.tensor(128.0))


def output_of(logits):
    from segdistill.network import SegmentationOutput

    return SegmentationOutput(logits, {"logits": logits})


def test_confidence_counts_in_training_with_images_alone(learn):
    strict, lenient = (learn("--min-confidence", least, name=f"at{least}") for least in (1, 0.01))
    losses = [json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["loss/pi"] for run in (strict, lenient)]
    assert losses[0] == 0
    assert losses[1] > 0


@pytest.mark.parametrize("palette", [[[0, 0, 0]] * 10, [[0, 0, 256]] * 11, "red", [[0, 0]] * 11])
def test_a_palette_that_is_none_is_refused(tmp_path, palette):
    network = build_network("espnet_c", 11, p=1, q=1)
    atomic_save(export_weights(network, IMAGENET, palette=palette), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="its palette should be 11 colours"):
        load_network(tmp_path / "x.pth")


def test_pictures_are_drawn_in_the_files_own_colours(photos, tmp_path):
    network = build_network("espnet_c", 3, p=1, q=1).eval()
    colors = ((1, 2, 3), (40, 50, 60), (200, 100, 50))
    atomic_save(export_weights(network, IMAGENET, classes=("a", "b", "c"), palette=colors), tmp_path / "x.pth")
    assert label(photos, tmp_path / "x.pth", tmp_path / "out", "--save", "colours") == 0
    drawn = {
        tuple(color)
        for path in (tmp_path / "out").rglob("*.png")
        for color in np.array(Image.open(path)).reshape(-1, 3).tolist()
    }
    assert drawn <= set(colors)
