import itertools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.dataset.__main__ import main as check
from segdistill.dataset.cityscapes import RAW_IDS, Cityscapes
from segdistill.dataset.scenes import Scenes, generator
from segdistill.dataset.scenes.__main__ import main as command_line
from segdistill.dataset.scenes.drawing import Canvas, Id
from segdistill.dataset.scenes.generator import generate
from segdistill.dataset.scenes.street import RARE, render_scene
from segdistill.libs import files


@pytest.fixture(scope="module")
def small_root(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("data") / "scenes", 4, 2, 1, size=(64, 128))


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_scene_is_a_pure_function_of_seed_and_index():
    image, label, depth = render_scene(3, 5)
    np.random.default_rng(0).random(7)
    again, label_again, depth_again = render_scene(3, 5)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(label, label_again)
    np.testing.assert_array_equal(depth, depth_again)
    for other in (render_scene(3, 6), render_scene(4, 5)):
        assert (other[1] != label).mean() > 0.05


@pytest.mark.parametrize("size", [(64, 128), (65, 131), (128, 256), (96, 320)])
def test_scene_has_the_size_and_types_asked_for(size):
    image, label, _ = render_scene(0, 1, size)
    assert image.shape == (*size, 3)
    assert label.shape == size
    assert image.dtype == label.dtype == np.uint8


def test_too_small_a_size_is_an_error():
    with pytest.raises(ValueError, match="at least 64 x 128"):
        render_scene(0, 0, (32, 128))


@pytest.mark.parametrize("index", range(3))
def test_scene_shows_the_same_things_at_another_size(index):
    small, large = render_scene(0, index, (128, 256))[1], render_scene(0, index, (256, 512))[1]
    assert (small == large[::2, ::2]).mean() > 0.93


def test_every_class_and_only_known_ids_occur():
    present = set().union(*(np.unique(render_scene(1, index, (64, 128))[1]).tolist() for index in range(20)))
    assert set(RAW_IDS) <= present <= set(Id)


@pytest.mark.parametrize("number", range(len(RARE)))
def test_rare_class_fills_part_of_the_scenes_that_are_offered_it(number):
    labels = [render_scene(0, number + len(RARE) * repeat)[1] for repeat in range(4)]
    assert max((label == RARE[number]).mean() for label in labels) > 0.002


def test_labels_follow_what_is_seen():
    """Label borders are image borders: the image changes more across them than elsewhere."""
    image, label, _ = render_scene(0, 4)
    step = np.abs(np.diff(image.astype(float), axis=1)).mean(2)
    border = label[:, 1:] != label[:, :-1]
    assert step[border].mean() > 2 * step[~border].mean()


def test_classes_are_not_told_apart_by_colour():
    """A table from colour (16 levels a channel) to its most frequent class, counted on some scenes, fails on others."""
    counts = np.zeros((4096, 256))
    for index in range(12):
        image, label, _ = render_scene(0, index)
        np.add.at(counts, (color_bin(image), label.ravel()), 1)
    others = [render_scene(0, index) for index in range(12, 20)]
    truth = np.concatenate([label.ravel() for _, label, _ in others])
    guess = np.concatenate([counts.argmax(1)[color_bin(image)] for image, *_ in others])
    ious = [((truth == i) & (guess == i)).sum() / ((truth == i) | (guess == i)).sum() for i in RAW_IDS if i in truth]
    assert np.mean(ious) < 0.25


def color_bin(image: np.ndarray) -> np.ndarray:
    red, green, blue = (image.reshape(-1, 3) // 16).astype(int).T
    return red * 256 + green * 16 + blue


def test_folder_is_a_cityscapes_data_set(small_root):
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        dataset = Cityscapes(small_root, split)
        assert len(dataset) == count
        for sample in dataset:
            assert sample.image.shape == (3, 64, 128)
    label = next((small_root / "gtFine" / "train").glob("*/*_gtFine_labelIds.png"))
    with Image.open(label) as image:
        assert image.mode == "L"


def test_files_hold_the_rendered_scenes(small_root):
    image = np.asarray(Image.open(small_root / "leftImg8bit/train/birch/birch_000001_000019_leftImg8bit.png"))
    label = np.asarray(Image.open(small_root / "gtFine/train/birch/birch_000001_000019_gtFine_labelIds.png"))
    expected_image, expected_label, _ = render_scene(0, 1, (64, 128))
    np.testing.assert_array_equal(image, expected_image)
    np.testing.assert_array_equal(label, expected_label)


def test_generating_twice_gives_the_same_bytes(small_root, tmp_path):
    assert files_of(generate(tmp_path / "scenes", 4, 2, 1, size=(64, 128))) == files_of(small_root)


def test_a_split_does_not_change_with_the_size_of_another(small_root, tmp_path):
    other = files_of(generate(tmp_path / "scenes", 1, 2, 0, size=(64, 128)))
    same = files_of(small_root)
    assert all(same[name] == data for name, data in other.items() if "/val/" in name)


def test_no_two_images_are_alike(small_root):
    images = [data for name, data in files_of(small_root).items() if "leftImg8bit" in name]
    assert all(a != b for a, b in itertools.combinations(images, 2))


def test_complete_folder_is_left_alone(small_root, monkeypatch):
    monkeypatch.setattr(generator, "render_scene", None)
    before = files_of(small_root)
    assert generate(small_root, 4, 2, 1, size=(64, 128)) == small_root
    assert files_of(small_root) == before


def test_other_parameters_are_an_error_that_says_which(small_root):
    with pytest.raises(ValueError, match=r"train is 4, not 5.*delete it or name another"):
        generate(small_root, 5, 2, 1, size=(64, 128))


def test_foreign_folder_is_an_error_and_stays(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"no scenes\.json"):
        generate(tmp_path, 1, 1, 1, size=(64, 128))
    assert files_of(tmp_path) == {"precious.txt": b"mine"}


def test_negative_count_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="-1 images of split 'val'"):
        generate(tmp_path / "scenes", 1, -1, 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_generation_leaves_nothing(tmp_path, monkeypatch, error):
    def fail_at_third(seed, index, size):
        if index == 2:
            raise error
        return render_scene(seed, index, size)

    monkeypatch.setattr(generator, "render_scene", fail_at_third)
    with pytest.raises(error):
        generate(tmp_path / "scenes", 4, 1, 1, size=(64, 128))
    assert list(tmp_path.iterdir()) == []


def test_two_processes_at_once_leave_one_data_set(tmp_path, monkeypatch):
    root = tmp_path / "scenes"

    def render_while_another_process_finishes(seed, index, size):
        monkeypatch.undo()
        generate(root, 2, 0, 0, size=size)
        return render_scene(seed, index, size)

    monkeypatch.setattr(generator, "render_scene", render_while_another_process_finishes)
    monkeypatch.setattr(generator.os, "getpid", lambda: 1)
    generate(root, 2, 0, 0, size=(64, 128))
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]
    assert len(Cityscapes(root, "train")) == 2


def test_what_killed_processes_left_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "is_alive", lambda process: process == 7)
    host = files.socket.gethostname()
    names = [f".scenes.{host}.{process}.unfinished" for process in (7, 8)]
    names += [".scenes.another.8.unfinished", f".others.{host}.8.unfinished"]
    for name in names:
        (tmp_path / name / "gtFine").mkdir(parents=True)
    generate(tmp_path / "scenes", 1, 0, 0, size=(64, 128))
    assert {path.name for path in tmp_path.iterdir()} == {"scenes", names[0], *names[2:]}


def test_a_process_is_alive_until_it_is_waited_for():
    process = subprocess.Popen(["true"])
    assert files.is_alive(process.pid)
    process.wait()
    assert not files.is_alive(process.pid)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-train", "-1"], "-1 images of split 'train'"),
        (["--size", "8", "8"], "at least 64 x 128"),
        (["--seed", "-1"], "non-negative"),
        (["--seed", "1", "--num-train", "3", "--num-val", "0", "--num-test", "0"], "exists but holds no scenes.json"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(words, message, tmp_path, capsys):
    folder = tmp_path / "scenes"
    if "exists" in message:
        folder.mkdir()
    assert command_line([str(folder), *words]) == 1
    said = capsys.readouterr().err
    assert message in said.splitlines()[-1]
    assert "Traceback" not in said


def test_damaged_parameters_are_named(tmp_path):
    (tmp_path / "scenes.json").write_text("{")
    with pytest.raises(ValueError, match=r"scenes\.json is damaged"):
        generate(tmp_path)


def test_command_line_writes_what_it_is_told(tmp_path):
    root = tmp_path / "deep" / "scenes"
    counts = "--num-train 1 --num-val 1 --num-test 0 --seed 7 --size 64 160"
    assert command_line([str(root), *counts.split()]) == 0
    record = json.loads((root / "scenes.json").read_text())
    assert (record["seed"], record["size"], record["train"], record["val"], record["test"]) == (7, [64, 160], 1, 1, 0)
    image = np.asarray(Image.open(next(root.glob("leftImg8bit/val/*/*.png"))))
    np.testing.assert_array_equal(image, render_scene(7, 1_000_000, (64, 160))[0])


def test_checking_a_misspelt_folder_draws_nothing(tmp_path, capsys):
    assert check(["check", "scenes", str(tmp_path / "typo")]) == 1
    assert "no folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_depth_is_where_the_ray_through_a_pixel_meets_a_slanted_face():
    canvas = Canvas(np.random.default_rng(0), (64, 128))
    corners = np.array([(-2.0, 0.0, 6.0), (3.0, 0.2, 14.0), (3.5, 3.0, 15.0)])
    canvas.polygon(corners, (0.5, 0.5, 0.5), Id.WALL)
    rows, columns = np.nonzero(canvas.label == Id.WALL)
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    across, up = (columns + 0.5 - canvas.center) / canvas.focal, (canvas.horizon - rows - 0.5) / canvas.focal
    rays = np.stack([across, up, np.ones(len(rows))], axis=1)
    metres = (corners[0] - (0, canvas.eye, 0)) @ normal / (rays @ normal)
    assert len(rows) > 500
    inside = (metres > 6) & (metres < 15)  # the outline may hold a pixel whose middle is beyond it
    assert inside.mean() > 0.99
    np.testing.assert_allclose(canvas.metres[rows, columns][inside], metres[inside], rtol=1e-4)


def test_depth_is_that_of_the_ground_and_void_in_the_sky(small_root):
    _, label, depth = render_scene(0, 3)
    assert (depth[label == Id.SKY] == 0).all()
    assert (depth[label == Id.EGO_VEHICLE] == 0).all()
    road = [depth[row][label[row] == Id.ROAD] for row in range(len(label))]
    rows = [(row, np.unique(values)) for row, values in enumerate(road) if len(values)]
    assert all(len(values) == 1 for _, values in rows)  # flat ground: one depth a row
    inverse = np.array([1 / values[0] for _, values in rows])
    line = np.polyfit([row for row, _ in rows], inverse, 1)
    np.testing.assert_allclose(np.polyval(line, [row for row, _ in rows]), inverse, atol=1e-5)

    stored = Scenes(small_root, "val", task="depth")[1].label
    expected = render_scene(0, generator.FIRST_INDEX["val"] + 1, (64, 128)).depth
    known = (expected >= 2) & (expected <= 80)
    assert (stored.isfinite().numpy() == known).mean() > 0.999  # all but those that rounding takes over an end
    both = known & stored.isfinite().numpy()
    np.testing.assert_allclose(stored.numpy()[both], expected[both], atol=1 / 500)


def test_a_folder_from_before_depth_says_what_to_do(small_root, tmp_path):
    shutil.copytree(small_root, tmp_path / "scenes", ignore=shutil.ignore_patterns("depth"))
    assert len(Scenes(tmp_path / "scenes", "train")) == 4
    with pytest.raises(FileNotFoundError, match="without depth: delete it"):
        Scenes(tmp_path / "scenes", "train", task="depth")
