"""Depth files of every kind, the data sets that have them, and what ``check`` says of faulty ones."""

import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.dataset import build_dataset
from segdistill.dataset.__main__ import main as dataset_command
from segdistill.dataset.cache import open_cache
from segdistill.dataset.check import check
from segdistill.dataset.depth import DepthRange, Storage, depth_of, encode_depth, read_values
from segdistill.dataset.transforms import RandomCrop

SIZE = (24, 32)


def save_values(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".pfm":
        header = f"Pf\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode()
        path.write_bytes(header + values[::-1].astype("<f4").tobytes())
    else:
        Image.fromarray(values).save(path)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("a.png", np.uint16), ("a.tif", np.uint16), ("a.tiff", np.float32), ("a.npy", np.float64), ("a.pfm", np.float32)],
)
def test_every_kind_of_file_gives_the_values_that_were_written(name, dtype, tmp_path):
    values = np.random.default_rng(0).uniform(0, 60000, SIZE).astype(dtype)
    save_values(tmp_path / name, values)
    np.testing.assert_array_equal(read_values(tmp_path / name), values)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", Image.new("RGB", (4, 4)), "a depth map is .H, W. of numbers, this is .4, 4, 3."),
        ("a.npy", b"no array", "a.npy cannot be read"),
        ("a.npy", np.array([{}]), "a.npy cannot be read"),
        ("a.pfm", b"PF\n4 4\n-1\n", "no PFM of one channel"),
        ("a.pfm", b"Pf\n4 4\n-1\n" + bytes(40), "holds 10 of 16 values"),
    ],
)
def test_what_is_no_depth_map_is_named(name, content, message, tmp_path):
    path = tmp_path / name
    if isinstance(content, Image.Image):
        content.save(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        read_values(path)


def test_what_is_no_depth_is_void_and_disparity_is_inverted():
    values = np.array([[0.0, -1.0, math.nan, math.inf, 0.01, 2.0, 50.0]])
    depth = depth_of(values, Storage(1.0), DepthRange(0.1, 10))
    torch.testing.assert_close(depth, torch.tensor([[math.nan] * 5 + [2.0, math.nan]]), equal_nan=True)
    depth = depth_of(values, Storage(100.0, inverse=True), DepthRange(0.1, 100))
    torch.testing.assert_close(depth, torch.tensor([[math.nan] * 5 + [50.0, 2.0]]), equal_nan=True)


def test_an_encoded_map_is_read_as_what_it_was(tmp_path):
    depth = np.random.default_rng(0).uniform(1, 100, SIZE)
    depth[0, 0] = math.nan
    save_values(tmp_path / "a.png", encode_depth(depth))
    again = depth_of(read_values(tmp_path / "a.png"), Storage(1 / 256), DepthRange(0.5, 200)).numpy()
    np.testing.assert_allclose(again, depth, atol=1 / 511)
    assert encode_depth(np.array([[1e9, 1e-9]])).tolist() == [[65535, 1]]


def street(height=SIZE[0], width=SIZE[1], seed=0):
    """Metres, 2 at the bottom to 40 at the top."""
    rng = np.random.default_rng(seed)
    return np.geomspace(40, 2, height)[:, None] * rng.uniform(0.9, 1.1, (height, width))


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(map(ord, str(path.name))))
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)


def folder_of(root, maps, card="scale 0.001  # mm\nrange 1 50\n", suffix=".png"):
    """A `folder` of depth maps as they are stored."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "depth.txt").write_text(card)
    for index, values in enumerate(maps):
        write_image(root / f"images/train/{index}.png")
        save_values(root / f"depth/train/{index}{suffix}", values)
    return root


def millimetres(seed=0):
    return (1000 * street(seed=seed)).astype(np.uint16)


def make_folder(root):
    folder_of(root, [millimetres()])


def make_nyu_png(root):
    write_image(root / "nyu_train_rgb/nyu_rgb_0003.png")
    save_values(root / "nyu_train_depth/nyu_depth_0003.png", millimetres())


def make_nyu_mat(root):
    h5py = pytest.importorskip("h5py", reason="reads NYUv2's .mat")
    write_image(root / "nyu_train_rgb/nyu_rgb_0003.png")
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        depths = np.ones((4, SIZE[1], SIZE[0]), np.float32)
        depths[2] = (millimetres() / 1000).T
        file["depths"] = depths


def make_kitti(root):
    drive = "2011_09_26_drive_0001_sync"
    write_image(root / f"2011_09_26/{drive}/image_02/data/0000000005.png")
    values = np.round(millimetres() * 0.256).astype(np.uint16)
    save_values(root / f"train/{drive}/proj_depth/groundtruth/image_02/0000000005.png", values)


@pytest.mark.parametrize(
    ("name", "make", "limits"),
    [
        ("folder", make_folder, (1, 50)),
        ("nyuv2", make_nyu_png, (0.1, 10)),
        ("nyuv2", make_nyu_mat, (0.1, 10)),
        ("kitti_depth", make_kitti, (1, 80)),
    ],
)
def test_labels_are_metres_with_nan_for_void(name, make, limits, tmp_path):
    make(tmp_path)
    dataset = build_dataset(name, tmp_path, "train", task="depth")
    assert (dataset.CLASSES, tuple(dataset.DEPTH_RANGE[:2])) == ((), limits)
    label = dataset[0].label
    metres = millimetres() / 1000
    known = (metres >= limits[0]) & (metres <= limits[1])
    assert (label.isfinite().numpy() == known).all()
    np.testing.assert_allclose(label.numpy()[known], metres[known], atol=1 / 500)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("scale 0.001\n", "expected lines"),
        ("scale 0\nrange 1 2\n", "above 0"),
        ("scale 1\nrange 2 1\n", "smaller end first"),
        ("scale 1\nscale 1\nrange 1 2\n", "depth.txt:2: .*each once"),
        ("unit mm\n", "depth.txt:1: expected"),
    ],
)
def test_a_card_that_means_nothing_is_named(card, message, tmp_path):
    folder_of(tmp_path, [millimetres()], card)
    with pytest.raises(ValueError, match=message):
        build_dataset("folder", tmp_path, "train", task="depth")


def test_without_a_card_the_error_says_what_it_holds(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*depth.txt; it says what the depth files hold, lines 'scale"):
        build_dataset("folder", tmp_path, "train", task="depth")


def test_kitti_names_the_depth_whose_image_is_missing(tmp_path):
    make_kitti(tmp_path)
    next(tmp_path.glob("2011*/*/*/data/*.png")).unlink()
    with pytest.raises(FileNotFoundError, match=r"0000000005.png.*fetch the raw data of this drive"):
        build_dataset("kitti_depth", tmp_path, "train")


def test_the_cache_keeps_values(tmp_path):
    dataset = build_dataset("folder", folder_of(tmp_path / "data", [millimetres(), millimetres(1)]), task="depth")
    cached = open_cache(dataset, tmp_path / "cache")
    for index in range(2):
        torch.testing.assert_close(cached[index].label, dataset.read(index).label, equal_nan=True)
        assert torch.equal(cached[index].image, dataset.read(index).image)


def test_what_is_shown_twice_as_large_is_half_as_far():
    image, label = torch.zeros(3, 16, 16, dtype=torch.uint8), torch.full((16, 16), 8.0)
    generator = torch.Generator().manual_seed(0)
    _, scaled = RandomCrop((16, 16), scale=(2.0, 2.0), scale_labels=True)(image, label, generator)
    assert (scaled == 4).all()
    _, padded = RandomCrop((16, 16), scale=(0.5, 0.5), scale_labels=True)(image, label, generator)
    assert (padded[:8, :8] == 16).all()
    assert padded[8:].isnan().all()
    _, plain = RandomCrop((16, 16), scale=(2.0, 2.0))(image, label, generator)
    assert (plain == 8).all()


def faulty(kind):
    """Three maps, one fault."""
    maps = [street(seed=seed) for seed in range(3)]
    if kind == "millimetres":
        return [np.float32(1000 * one) for one in maps]
    if kind == "metres":
        return [np.float32(one / 1000) for one in maps]
    if kind == "8 bits":
        return [np.floor(one * 0.9) for one in maps]
    if kind == "disparity":
        return [np.float32(50 / one) for one in maps]
    if kind == "border":
        for one in maps:
            one[:, -2:] = 7
        return [np.float32(one) for one in maps]
    if kind == "jump":
        maps[1] *= 1000
    return [np.float32(one) for one in maps]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("millimetres", "error: 100 % of the depths are not within 1..50 m: are they read as metres where millimetres"),
        ("metres", "error: 100 % of the depths are not within 1..50 m: are they read as millimetres where metres are"),
        ("jump", "error: the unit changes in between: the median of .*0.npy is .* m, of .*1.npy"),
        ("8 bits", "warning: 3 files, .*0.npy the first, have at most 40 values: were they quantised"),
        ("disparity", "warning: the lower part of 3 of 3 maps is farther away than the upper one: are these disp"),
        ("border", "warning: 3 files, .*0.npy the first, have a border of one value"),
    ],
)
def test_check_names_the_fault(kind, message, tmp_path, capsys, monkeypatch):
    if kind == "8 bits":
        monkeypatch.setattr("segdistill.dataset.check_depth.FEW_LEVELS", 40)  # in maps as small as these
    folder_of(tmp_path, faulty(kind), "scale 1\nrange 1 50\n", ".npy")
    command = ["check", "folder", str(tmp_path), "--task", "depth", "--split", "train"]
    failed = dataset_command(command)
    printed = capsys.readouterr().err
    assert re.search(message, printed), printed
    assert failed == message.startswith("error")


def test_check_finds_nothing_in_sound_maps_and_names_8_bit_files(tmp_path):
    root = folder_of(tmp_path / "sound", faulty("none"), "scale 1\nrange 1 50\n", ".npy")
    verdict = check(build_dataset("folder", root, "train", task="depth"))
    assert (verdict.errors, verdict.warnings) == ([], [])
    assert verdict.num_pixels == [3 * SIZE[0] * SIZE[1], 0]
    root = folder_of(tmp_path / "grey", [(5 * street()).astype(np.uint8)], "scale 0.2\nrange 1 50\n")
    verdict = check(build_dataset("folder", root, "train", task="depth"))
    assert verdict.warnings[0].endswith("0.png has 8 bits, 255 steps from near to far: are they pictures of depth?")
