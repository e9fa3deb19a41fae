"""test.py: what it writes, and what the official evaluators make of it."""

import importlib
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix

import eval as evaluation
import test as prediction
from segdistill.dataset import DATASETS, Scenes, Voc2012
from segdistill.dataset.normalization import IMAGENET
from segdistill.dataset.scenes import generate
from segdistill.network import build_network, load_network
from segdistill.network.export import export_network
from segdistill.network.weights.checkpoint import atomic_save, export_weights
from segdistill.utils.metrics import ConfusionMatrix
from segdistill.utils.pictures import png_of
from segdistill.utils.submission import palette_of, submission
from segdistill.utils.video import VideoWriter

real_data = pytest.mark.skipif(
    "SEGDISTILL_DATA" not in os.environ, reason="SEGDISTILL_DATA (folder of real data) is not set"
)


def run(*arguments):
    assert prediction.main([*map(str, arguments)]) == 0


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def picture(path, size=(24, 32), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


# ------------------------------------------------------------------------------------------------------ submissions


@pytest.fixture(scope="module")
def cityscapes_weights(tmp_path_factory):
    """A small network that answers with about every class."""
    torch.manual_seed(0)
    network = build_network("espnet_c", 19, p=1, q=1).eval()
    path = tmp_path_factory.mktemp("weights") / "student.pth"
    atomic_save(export_weights(network, IMAGENET), path)
    return path


@pytest.fixture
def official(monkeypatch):
    """Cityscapes' own evaluator: (predictions, truths) -> its results."""
    script = importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    args = script.args
    monkeypatch.setattr(args, "evalInstLevelScore", False)
    monkeypatch.setattr(args, "JSONOutput", False)
    monkeypatch.setattr(args, "quiet", True)

    def score(folder, truths):
        monkeypatch.setattr(args, "predictionPath", str(folder))
        monkeypatch.setattr(args, "predictionWalk", None)
        return script.evaluateImgLists(
            [script.getPrediction(args, str(t)) for t in truths], list(map(str, truths)), args
        )

    return score


def check_against_the_official_evaluator(dataset, root, split, weights, official, tmp_path):
    common = ["--dataset", dataset, "--data-dir", root, "--split", split, "--checkpoint", weights]
    run(*common, "--submission", tmp_path / "cityscapes.zip")
    assert evaluation.main([*map(str, common), "--output", str(tmp_path / "evaluation.json")]) == 0
    ours = json.loads((tmp_path / "evaluation.json").read_text())
    with zipfile.ZipFile(tmp_path / "cityscapes.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    truths = sorted((Path(root) / "gtFine" / split).glob("*/*labelIds.png"))
    theirs = official(tmp_path / "unpacked", truths)
    for name, iou in zip(ours["classes"], ours["iou"], strict=True):
        assert theirs["classScores"][name] == pytest.approx(np.nan if iou is None else iou, abs=1e-6, nan_ok=True), name
    for name, iou in ours["category_iou"].items():
        assert theirs["categoryScores"][name] == pytest.approx(np.nan if iou is None else iou, abs=1e-6, nan_ok=True)
    assert theirs["averageScoreClasses"] == pytest.approx(ours["mean_iou"], abs=1e-6)
    assert theirs["averageScoreCategories"] == pytest.approx(ours["mean_category_iou"], abs=1e-6)
    return ours


def test_the_official_evaluator_agrees_on_scenes(cityscapes_weights, official, tmp_path):
    root = generate(tmp_path / "scenes", num_train=0, num_val=3, num_test=0, size=(64, 128))
    ours = check_against_the_official_evaluator("scenes", root, "val", cityscapes_weights, official, tmp_path)
    assert ours["num_images"] == 3


@real_data
@pytest.mark.slow
def test_the_official_evaluator_agrees_on_cityscapes(official, tmp_path):
    data = Path(os.environ["SEGDISTILL_DATA"])
    weights = data / "espnet_pretrained/encoder/espnet_p_2_q_3.pth"
    ours = check_against_the_official_evaluator("cityscapes", data / "cityscapes", "train", weights, official, tmp_path)
    assert ours["mean_iou"] > 0.2


def test_vocs_server_wants_palette_pngs_in_its_own_folders(tmp_path):
    class Voc(Voc2012):
        CLASSES = ("background", "aeroplane")
        PALETTE = ((0, 0, 0), (128, 0, 0))
        ID_TO_TRAIN_ID = {0: 0, 1: 1, 255: 255}

    ids = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    ids[1, 2] = 2  # void, if the network counts it
    with submission(tmp_path / "voc.tar", Voc) as archive:
        archive.add("2007_000033", archive.encode(ids))
        with pytest.raises(ValueError, match="share the name"):
            archive.add("2007_000033", archive.encode(ids))
    with tarfile.open(tmp_path / "voc.tar") as archive:
        assert archive.getnames() == ["results/VOC2012/Segmentation/comp6_test_cls/2007_000033.png"]
        image = Image.open(archive.extractfile(archive.getnames()[0]))
        image.load()
    assert image.mode == "P"
    assert np.asarray(image).tolist() == [[0, 1, 1], [1, 0, 255]]
    assert image.convert("RGB").getpixel((1, 0)) == (128, 0, 0)
    assert len(image.getpalette()) == 3 * 256
    assert files_in(tmp_path) == ["voc.tar"]


def test_values_and_colours_of_a_palette_are_those_of_the_label_files():
    for name, dataset in ((n, d) for n, d in DATASETS.items() if d.CLASSES):
        palette = np.frombuffer(palette_of(dataset), np.uint8).reshape(256, 3)
        ids = np.arange(len(dataset.CLASSES), dtype=np.uint8)
        assert np.array_equal(palette[dataset.encode(ids)], np.reshape(dataset.PALETTE, (-1, 3))), name


def test_a_tar_is_for_the_server_that_takes_it_alone(tmp_path):
    with (
        pytest.raises(ValueError, match=r"a submission of Scenes is a \.zip, not x\.tar"),
        submission(tmp_path / "x.tar", Scenes),
    ):
        pass
    assert files_in(tmp_path) == []


def test_an_interrupted_submission_leaves_nothing(tmp_path):
    def interrupted():
        with submission(tmp_path / "x.zip", Scenes) as archive:
            archive.add("a", archive.encode(np.zeros((2, 2), np.uint8)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files_in(tmp_path) == []


@real_data
@pytest.mark.parametrize("name", ["voc2012", "nyuv2"])
def test_scores_on_real_labels_are_those_of_scikit_learn(name):
    """Real label files, predicted by themselves with a fifth of their pixels changed."""
    folder = Path(os.environ["SEGDISTILL_DATA"]) / name
    files, num_classes = sorted((folder / "SegmentationClass").glob("*.png")), 21
    if name == "nyuv2":
        files, num_classes = sorted((folder / "testannot13").glob("*.png"))[::60], 13
    rng = np.random.default_rng(0)
    confusion, truths, guesses = ConfusionMatrix(num_classes), [], []
    for file in files:
        label = np.array(Image.open(file))
        if name == "nyuv2":
            label = label - 1  # 0 is void, and becomes 255
        noise = rng.integers(0, num_classes, label.shape, dtype=np.uint8)
        guess = np.where((rng.random(label.shape) < 0.2) | (label == 255), noise, label)
        confusion.update(guess, label)
        truths.append(label[label != 255])
        guesses.append(guess[label != 255])
    expected = confusion_matrix(np.concatenate(truths), np.concatenate(guesses), labels=range(num_classes))
    assert np.array_equal(confusion.matrix[:-1, :-1].numpy(), expected)
    hits, union = expected.diagonal(), expected.sum(0) + expected.sum(1) - expected.diagonal()
    assert confusion.mean_iou() == pytest.approx(np.mean(hits[union > 0] / union[union > 0]), abs=1e-12)
    assert confusion.pixel_accuracy() == pytest.approx(hits.sum() / expected.sum(), abs=1e-12)


# ---------------------------------------------------------------------------------------------- pictures and videos


@pytest.fixture
def weights(tiny):
    return ["--dataset", "camvid", "--checkpoint", tiny / "teacher.pth"]


def test_pictures_of_one_name_are_all_written(weights, tmp_path, capsys):
    for name in ("in/a.jpg", "in/a.png", "in/night/a.png", "in/b.png"):
        picture(tmp_path / name)
    run(*weights, "--images", tmp_path / "in", "--output", tmp_path / "out")
    assert files_in(tmp_path / "out/labels") == ["a.jpg.png", "a.png.png", "b.png.png", "night/a.png.png"]
    assert "4 predictions" in capsys.readouterr().out


def test_pictures_are_predicted_upright(weights, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    picture(tmp_path / "in/phone.jpg", size=(24, 32), exif=exif)
    run(*weights, "--images", tmp_path / "in", "--output", tmp_path / "out", "--save", "labels", "overlays")
    assert Image.open(tmp_path / "out/labels/phone.png").size == (24, 32)
    assert Image.open(tmp_path / "out/overlays/phone.png").size == (24, 32)


def test_every_kind_of_image_of_a_folder_is_predicted_and_other_files_are_named(weights, tmp_path, caplog):
    for suffix in (".png", ".JPG", ".tif", ".tiff", ".webp", ".bmp"):
        picture(tmp_path / f"in/{suffix[1:]}{suffix}")
    (tmp_path / "in/notes.txt").touch()
    (tmp_path / "in/film.gif").touch()
    run(*weights, "--images", tmp_path / "in", "--output", tmp_path / "out")
    assert files_in(tmp_path / "out/labels") == [f"{name}.png" for name in ("JPG", "bmp", "png", "tif", "tiff", "webp")]
    assert "2 files are not used" in caplog.text
    assert "film.gif" in caplog.text


def test_a_list_names_pictures_relative_to_itself_or_by_absolute_paths(weights, tmp_path):
    for name in ("a", "b", "c"):
        picture(tmp_path / f"in/{name}.png")
    (tmp_path / "in/some.txt").write_text(f"b.png\n\n{tmp_path}/in/c.png\n", encoding="utf-8-sig")
    run(*weights, "--images", tmp_path / "in/some.txt", "--output", tmp_path / "out")
    assert files_in(tmp_path / "out") == ["labels/b.png", "labels/c.png"]


def test_a_line_of_a_list_that_names_nothing_is_an_error_before_anything_is_written(weights, tmp_path):
    picture(tmp_path / "in/a.png")
    (tmp_path / "some.txt").write_text("in/a.png\nin\\a.png\n")
    with pytest.raises(FileNotFoundError, match=r"some\.txt:2 names .*does not exist.*separated by /"):
        run(*weights, "--images", tmp_path / "some.txt", "--output", tmp_path / "out")
    (tmp_path / "some.txt").write_bytes(b"gr\xfcn.png\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        run(*weights, "--images", tmp_path / "some.txt", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_several_checkpoints_share_a_panel_and_have_folders_of_their_own(tiny, weights, tmp_path):
    for name in ("alone", "distilled"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best.pth").symlink_to(tiny / "teacher.pth")
    picture(tmp_path / "in/a.png")
    checkpoints = ["--checkpoint", tmp_path / "alone/best.pth", tmp_path / "distilled/best.pth"]
    run(
        *weights[:2],
        *checkpoints,
        "--images",
        tmp_path / "in",
        "--output",
        tmp_path / "out",
        "--save",
        "colours",
        "panels",
    )
    assert files_in(tmp_path / "out") == ["alone_best/colours/a.png", "distilled_best/colours/a.png", "panels/a.png"]
    width, height = Image.open(tmp_path / "out/panels/a.png").size
    assert width == 3 * 32
    assert height > 24


def test_a_video_becomes_a_video_of_panels(weights, tmp_path):
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(tmp_path / "in.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for shade in (0, 120, 240):
        writer.write(np.full((48, 64, 3), shade, np.uint8))
    writer.release()
    run(*weights, "--images", tmp_path / "in.avi", "--output", tmp_path / "out")
    assert files_in(tmp_path / "out") == ["panels/in.mp4"]
    video = cv2.VideoCapture(str(tmp_path / "out/panels/in.mp4"))
    frames = []
    while (frame := video.read()[1]) is not None:
        frames.append(frame)
    assert len(frames) == 3
    assert frames[0].shape[1] == 2 * 64
    shades = [frame[-48:, :64].mean() for frame in frames]
    assert shades == pytest.approx([0, 120, 240], abs=6)
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10)


def test_a_video_keeps_its_last_row_and_column_and_plays_in_browsers(tmp_path):
    cv2 = pytest.importorskip("cv2")
    picture = np.zeros((33, 47, 3), np.uint8)
    picture[-1] = picture[:, -1] = 255
    (tmp_path / "link.mp4").symlink_to(tmp_path / "elsewhere/video.mp4")
    with VideoWriter(tmp_path / "link.mp4", 10) as video:
        video.add(picture)
    assert (tmp_path / "link.mp4").is_symlink()
    assert files_in(tmp_path) == ["elsewhere/video.mp4", "link.mp4"]
    video = cv2.VideoCapture(str(tmp_path / "elsewhere/video.mp4"))
    assert int(video.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").lower() in (b"vp09", b"vp90")
    frame = video.read()[1]
    assert frame.shape == (34, 48, 3)
    assert min(frame[32:].mean(), frame[:, 46:].mean()) > 200
    assert frame[:28, :40].mean() < 20


def test_a_file_that_is_no_video_is_an_error(weights, tmp_path):
    (tmp_path / "in.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="cannot be decoded"):
        run(*weights, "--images", tmp_path / "in.mp4", "--output", tmp_path / "out")


def test_latency_says_what_it_depends_on(tiny, capsys):
    run("--checkpoint", tiny / "teacher.pth", "--fps", "--input-size", 16, 24, "--batch-size", 2, "--device", "cpu")
    words = capsys.readouterr().out
    for word in ("median_ms", "p90_ms", "size [16, 24]", "batch_size 2", "dtype float32", "device", "runtime PyTorch"):
        assert word in words


def test_latency_of_an_exported_file_names_its_runtime_and_threads(tiny, tmp_path, capsys):
    file, before = tmp_path / "teacher.pt2", torch.get_num_threads()
    export_network(*load_network(tiny / "teacher.pth"), file)
    common = ["--checkpoint", file, "--network", file, "--fps", "--input-size", 16, 24]
    run(*common, "--threads", 1)
    torch.set_num_threads(before)
    words = capsys.readouterr().out
    for word in ("median_ms", "p90_ms", "size [16, 24]", "batch_size 1", "threads 1", "runtime PyTorch"):
        assert word in words
    with pytest.raises(ValueError, match="no --dtype"):
        run(*common, "--dtype", "bfloat16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "camvid", "--images", "x", "--output", "o", "--tile", 8, 8], "--predict sliding"),
        (["--dataset", "camvid", "--images", "x", "--output", "o", "--predict", "sliding"], "needs --tile"),
        (["--dataset", "camvid", "--images", "x"], "nothing to write"),
        (["--dataset", "camvid", "--images", "x.mp4", "--output", "o", "--save", "labels"], "a video gives"),
        (["--images", "x.mp4", "--output", "o", "--min-confidence", "0"], "a video gives"),
        (["--dataset", "camvid", "--images", "x", "--output", "o", "--task", "depth"], "camvid has no --task depth"),
        (["--dataset", "camvid", "--data-dir", "x", "--output", "o", "--split", "all"], "no --split all; known: train"),
        (["--fps"], "--input-size"),
    ],
)
def test_options_that_miss_each_other_are_errors(options, message, capsys):
    with pytest.raises(SystemExit):
        run("--checkpoint", "x.pth", *options)
    assert message in capsys.readouterr().err


IMAGES = ["--dataset", "camvid", "--images", "x"]
LATENCY = ["--fps", "--input-size", "8", "8"]
NO_EFFECT = [
    *((LATENCY, flag, "with --fps") for flag in ("--flip", "--scales 1 2", "--predict whole", "--class-map x.txt")),
    *((LATENCY, flag, "with --fps") for flag in ("--images x", "--save labels", "--submission x.zip", "--output o")),
    *((LATENCY, flag, "with --fps") for flag in ("--dataset=camvid", "--data-dir x", "--data-list x", "--split val")),
    *(([*IMAGES, "--output", "o"], flag, "with --images") for flag in ("--data-dir x", "--data-list x", "--split val")),
    ([*IMAGES, "--output", "o"], "--dtype bfloat16", "without --fps"),
    ([*IMAGES, "--output", "o"], "--threads 1", "without --fps"),
    ([*IMAGES, "--output", "o"], "--batch-size 4", "without --fps or --predict sliding"),
    ([*IMAGES, "--submission", "x.zip"], "--save colours", "without --output"),
]


@pytest.mark.parametrize(("words", "flag", "where"), NO_EFFECT, ids=[flag for _, flag, _ in NO_EFFECT])
def test_a_flag_without_effect_is_an_error_that_names_it(words, flag, where, capsys):
    with pytest.raises(SystemExit):
        run("--checkpoint", "x.pth", *words, *flag.split())
    assert f"no effect {where}: {flag.partition(' ')[0].partition('=')[0]}" in capsys.readouterr().err


def test_a_split_without_images_is_an_error_of_one_line(weights, tmp_path, tiny):
    with pytest.raises(FileNotFoundError, match="no images of split 'test'"):
        run(*weights, "--data-dir", tiny, "--output", tmp_path)


def test_a_damaged_picture_is_named_and_what_was_written_is_whole(weights, tmp_path):
    for index in range(12):
        picture(tmp_path / f"in/{index:02}.png")
    damaged = tmp_path / "in/08.png"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"08\.png cannot be read"):
        run(*weights, "--images", tmp_path / "in", "--output", tmp_path / "out", "--submission", tmp_path / "x.zip")
    assert files_in(tmp_path / "out") == [f"labels/{index:02}.png" for index in range(len(files_in(tmp_path / "out")))]
    assert all(np.asarray(Image.open(tmp_path / "out" / file)).shape == (24, 32) for file in files_in(tmp_path / "out"))
    assert not (tmp_path / "x.zip").exists()


def test_a_task_that_the_file_does_not_answer_is_refused(tiny, tmp_path):
    words = ["--checkpoint", tiny / "teacher.pth", "--images", tiny / "camvid/val", "--output", tmp_path / "out"]
    with pytest.raises(ValueError, match=r"teacher\.pth answers in segmentation, not in --task depth"):
        run(*words, "--task", "depth")
    run(*words, "--task", "segmentation")


def test_pngs_hold_the_pictures():
    generator = np.random.default_rng(0)
    for shape, dtype in (((5, 7, 3), np.uint8), ((5, 7), np.uint8), ((5, 7), np.uint16)):
        pixels = generator.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_of(pixels)))), pixels)
