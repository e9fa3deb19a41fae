import fcntl
import json
import multiprocessing
import pickle
import time
from types import SimpleNamespace

import pytest
import torch
from trees import LAYOUTS, make_tree, write_pair

import train
from segdistill.dataset import build_dataset, cache
from segdistill.dataset.cache import open_cache
from segdistill.dataset.transforms import RandomCrop
from segdistill.network import load_network

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def root(tmp_path):
    return make_tree(tmp_path / "data", "camvid")


def open_split(root, **options):
    return build_dataset("camvid", root, "train", **options)


def folders(cache_dir):
    return sorted(path.name for path in cache_dir.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("transform", [None, RandomCrop((16, 16), (0.5, 2.0), mirror=True)])
def test_cached_items_are_those_of_the_files(transform, root, tmp_path):
    decoded, cached = open_split(root, transform=transform), open_split(root, transform=transform)
    cached.memory = open_cache(cached, tmp_path / "cache")
    for key in ((0, 0), (0, 1), (0, 2), (1, 2)):
        for one, other in zip(decoded[key], cached[key], strict=True):
            assert torch.equal(one, other) if torch.is_tensor(one) else one == other


def test_a_cache_is_built_once(root, tmp_path, monkeypatch):
    dataset = open_split(root)
    first = open_cache(dataset, tmp_path / "cache")
    monkeypatch.setattr(cache, "build", None)
    assert torch.equal(open_cache(dataset, tmp_path / "cache")[1].image, first[1].image)


def test_other_contents_have_another_cache(root, tmp_path):
    open_cache(open_split(root), tmp_path / "cache")
    image, label = LAYOUTS["camvid"](root, "000001")
    write_pair(image, label, [5])
    again = open_cache(open_split(root), tmp_path / "cache")
    assert again[1].label.unique().tolist() == [5]
    assert len(folders(tmp_path / "cache")) == 2


def test_a_moved_data_set_keeps_its_cache(root, tmp_path, monkeypatch):
    open_cache(open_split(root), tmp_path / "cache")
    root.rename(tmp_path / "elsewhere")
    monkeypatch.setattr(cache, "build", None)
    assert len(open_cache(open_split(tmp_path / "elsewhere"), tmp_path / "cache")) == 3


@pytest.mark.slow
def test_a_run_from_the_cache_is_the_run_from_the_files(tiny, tmp_path):
    words = ["--dataset", "camvid", "--data-dir", str(tiny / "camvid"), "--network", "espnet_c"]
    words += ["--network-options", "p=1", "q=1", "--input-size", "32,48", "--num-steps", "3", "--batch-size", "2"]
    words += ["--snapshot-dir", str(tmp_path), "--num-workers", "2"]
    assert train.main([*words, "--save-name", "files"]) == 0
    assert train.main([*words, "--save-name", "cache", "--cache-dir", str(tmp_path / "decoded")]) == 0
    files, cached = (load_network(tmp_path / name / "best.pth")[0].state_dict() for name in ("files", "cache"))
    assert all(torch.equal(files[key], cached[key]) for key in files)


def test_writing_to_a_sample_leaves_the_cache_as_it_is(root, tmp_path):
    samples = open_cache(open_split(root), tmp_path / "cache")
    before = samples[0].image.clone()
    samples[0].image.zero_()
    assert torch.equal(open_cache(open_split(root), tmp_path / "cache")[0].image, before)


def test_another_process_is_not_sent_the_pixels(root, tmp_path):
    samples = open_cache(open_split(root), tmp_path / "cache")
    sent = pickle.dumps(samples)
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent)[2].label, samples[2].label)


def zero(path, start, length):
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(length))


def swap_sizes(folder):
    places = json.loads((folder / "samples.json").read_text())
    places[1][1:3] = places[1][2], places[1][1]
    (folder / "samples.json").write_text(json.dumps(places))


DAMAGES = {
    "pixels": lambda folder: zero(folder / "pixels.bin", (folder / "pixels.bin").stat().st_size // 2, 64),
    "pixels-cut": lambda folder: (folder / "pixels.bin").write_bytes((folder / "pixels.bin").read_bytes()[:-9]),
    "pixels-gone": lambda folder: (folder / "pixels.bin").unlink(),
    "sizes": swap_sizes,
    "index-empty": lambda folder: (folder / "samples.json").write_text(""),
    "index-other": lambda folder: (folder / "samples.json").write_text("[7]"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_never_learned_from(root, tmp_path, damage):
    open_cache(open_split(root), tmp_path / "cache")
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    damage(folder)
    with pytest.raises(ValueError, match=rf"{folder} is damaged.*: delete that folder\Z"):
        list(open_cache(open_split(root), tmp_path / "cache"))


@pytest.mark.parametrize("index", ["", "[]", '{"a": "abc"}', '{"a": 7}'])
def test_a_damaged_index_of_contents_is_made_anew(root, tmp_path, index):
    open_cache(open_split(root), tmp_path / "cache")
    path = tmp_path / "cache/.CamVid-train.contents.json"
    good = path.read_text()
    path.write_text(index.replace('"a"', json.dumps(next(iter(json.loads(good))))))
    open_cache(open_split(root), tmp_path / "cache")
    assert json.loads(path.read_text()) == json.loads(good)


def test_a_bad_file_leaves_no_cache(root, tmp_path):
    LAYOUTS["camvid"](root, "000002")[0].write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"000002\.png"):
        open_cache(open_split(root), tmp_path / "cache")
    assert folders(tmp_path / "cache") == []


def test_a_full_disk_says_how_much_is_needed(root, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "os", SimpleNamespace(fsync=full))
    with pytest.raises(OSError, match=r"--cache-dir.*could not take train \(No space left on device\).*GiB: make room"):
        open_cache(open_split(root), tmp_path / "cache")
    assert folders(tmp_path / "cache") == []


def build_slowly(root, cache_dir, log, seconds):
    """Decode with a pause, and note every item in ``log``."""
    dataset = open_split(root)
    read = dataset.read

    def slowly(index):
        with log.open("a") as file:
            file.write(f"{index} ")
        time.sleep(seconds)
        return read(index)

    dataset.read = slowly
    open_cache(dataset, cache_dir)


def start_build(root, folder, seconds):
    builder = FORK.Process(target=build_slowly, args=(root, folder / "cache", folder / "log", seconds))
    builder.start()
    return builder


def test_of_two_builders_one_waits(root, tmp_path):
    builders = [start_build(root, tmp_path, 0.1) for _ in range(2)]
    for builder in builders:
        builder.join(60)
        assert builder.exitcode == 0
    assert (tmp_path / "log").read_text().split() == ["0", "1", "2"]
    assert len(folders(tmp_path / "cache")) == 1


def test_of_two_builders_whose_locks_do_not_meet_the_first_counts(root, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)  # as on two machines
    builders = [start_build(root, tmp_path, 0.1) for _ in range(2)]
    for builder in builders:
        builder.join(60)
        assert builder.exitcode == 0
    dataset = open_split(root)
    samples = open_cache(dataset, tmp_path / "cache")
    assert torch.equal(samples[2].image, dataset[2].image)
    assert sorted((tmp_path / "log").read_text().split()) == ["0", "0", "1", "1", "2", "2"]
    assert len(folders(tmp_path / "cache")) == 1
    assert not list((tmp_path / "cache").glob(".*unfinished"))


def test_a_build_that_was_killed_is_done_again(root, tmp_path):
    builder = start_build(root, tmp_path, 60)
    while not (tmp_path / "log").exists():
        assert builder.is_alive()
        time.sleep(0.01)
    builder.kill()
    builder.join(60)
    assert folders(tmp_path / "cache") == []
    dataset = open_split(root)
    samples = open_cache(dataset, tmp_path / "cache")
    assert torch.equal(samples[2].image, dataset[2].image)
    assert not list((tmp_path / "cache").glob(".*unfinished"))
