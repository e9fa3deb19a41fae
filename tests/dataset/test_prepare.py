"""Data sets from a server of this machine."""

import io
import os
import shutil
import stat
import tarfile
import threading
import warnings
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from trees import make_tree, write_pair

from segdistill.dataset.__main__ import main
from segdistill.dataset.base import Source
from segdistill.dataset.camvid import CamVid
from segdistill.dataset.nyuv2 import NYUv2
from segdistill.dataset.prepare import prepare, unpack
from segdistill.dataset.scenes import Scenes, generator
from segdistill.dataset.voc2012 import Voc2012


@pytest.fixture
def served(tmp_path):
    """A folder, its address, and what was asked for."""
    folder, requests = tmp_path / "served", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, form, *words):
            requests.append(words[0])

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def pack(root, archive, top):
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as opened:
            for path in files:
                opened.write(path, f"{top}/{path.relative_to(root)}")
        return
    with tarfile.open(archive, "w:gz" if archive.suffix == ".tgz" else "w") as opened:
        for path in files:
            opened.add(path, f"{top}/{path.relative_to(root)}")


def camvid_tree(root):
    make_tree(root, "camvid")
    for folder in ("train", "trainannot"):
        shutil.copytree(root / folder, root / folder.replace("train", "val"))
    return root


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz"])
def test_a_public_data_set_is_fetched_unpacked_and_readable(suffix, served, tmp_path, monkeypatch):
    folder, address, requests = served
    pack(camvid_tree(tmp_path / "source"), folder / f"data{suffix}", "some/CamVid")
    monkeypatch.setattr(CamVid, "SOURCES", (Source(f"{address}/data{suffix}", "some/CamVid"),))
    assert "train 3, val 3 images" in prepare(CamVid, tmp_path / "data")
    count = len(requests)
    assert "train 3" in prepare(CamVid, tmp_path / "data")
    assert len(requests) == count, "fetched again"


def test_an_interrupted_unpacking_is_completed(served, tmp_path, monkeypatch):
    folder, address, _ = served
    pack(camvid_tree(tmp_path / "source"), folder / "data.zip", "CamVid")
    monkeypatch.setattr(CamVid, "SOURCES", (Source(f"{address}/data.zip", "CamVid"),))
    prepare(CamVid, tmp_path / "data")
    (tmp_path / "data/train/000001.png").unlink()
    (tmp_path / "data/train/000002.png").write_bytes(b"half")
    assert "train 3" in prepare(CamVid, tmp_path / "data")
    assert (tmp_path / "data/train/000002.png").stat().st_size > 4


def evil_zip(path, *names, kind=0, **changes):
    with zipfile.ZipFile(path, "w") as opened:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = kind << 16
            opened.writestr(info, "x")
            for field, value in changes.items():  # after the local header: the directory is what is read
                setattr(info, field, value)


def evil_tar(path, name, kind=tarfile.REGTYPE, link=""):
    with tarfile.open(path, "w") as opened:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, 0
        opened.addfile(info, io.BytesIO())


def twice(path, kind):
    file = path.with_name("x")
    file.write_text("x")
    with kind(path, "w") as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's of the second name
        for name in ("train/x", "./train/x" if kind is tarfile.open else "train/x"):
            (opened.add if kind is tarfile.open else opened.write)(file, name)
    file.unlink()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: evil_zip(path, "../../outside"), "leads out of the folder"),
        (lambda path: evil_zip(path, "/outside"), "leads out of the folder"),
        (lambda path: evil_zip(path, "a\\..\\outside"), "leads out of the folder"),
        (lambda path: evil_tar(path, "CamVid/../../../outside"), "leads out of the folder"),
        (lambda path: evil_tar(path, "train", tarfile.SYMTYPE, "/etc"), "is a link or device"),
        (lambda path: evil_tar(path, "train/x", tarfile.LNKTYPE, "../../x"), "is a link or device"),
        (lambda path: evil_tar(path, "pipe", tarfile.FIFOTYPE), "is a link or device"),
        (lambda path: evil_zip(path, "train/a.png", "train/x", kind=stat.S_IFLNK), "is a link or device"),
        (lambda path: evil_zip(path, "train/x", kind=stat.S_IFCHR), "is a link or device"),
        (lambda path: evil_zip(path, "train/x", kind=stat.S_IFIFO), "is a link or device"),
        (lambda path: evil_zip(path, "train/a.png", "train/x", flag_bits=1), "is encrypted"),
        (lambda path: evil_zip(path, "train/x", compress_type=9), r"compressed in a way .*\(9\)"),
        (lambda path: twice(path, zipfile.ZipFile), "is there twice"),
        (lambda path: twice(path, tarfile.open), "is there twice"),
        (lambda path: path.write_bytes(b"no archive"), "is damaged.*delete it"),
        (lambda path: evil_zip(path, "other/x.png"), "did not hold what was expected"),
    ],
)
def test_an_archive_that_is_not_to_be_trusted_is_refused(make, message, served, tmp_path, monkeypatch):
    folder, address, _ = served
    make(folder / "data")
    monkeypatch.setattr(CamVid, "SOURCES", (Source(f"{address}/data"),))
    root = tmp_path / "deep/data"
    with pytest.raises(ValueError, match=message):
        prepare(CamVid, root)
    assert {path.name for path in tmp_path.iterdir()} == {"served", "deep"}
    assert [path.name for path in root.parent.iterdir()] == ["data"]


def whole_tar(root, suffix):
    """A tar of three pairs, where its members begin and where the last one ends."""
    pack(camvid_tree(root / "source"), root / f"data{suffix}", "CamVid")
    with tarfile.open(root / f"data{suffix}") as opened:
        return root / f"data{suffix}", [*[member.offset for member in opened], opened.offset]


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["header", "cut at a member", "cut in a header", "cut in a file", "no end"])
def test_a_tar_that_lost_files_is_refused(damage, tmp_path):
    archive, starts = whole_tar(tmp_path, ".tar")
    if damage == "header":
        flip(archive, starts[3] + 150)
    else:
        number, after = {
            "cut at a member": (3, 0),
            "cut in a header": (3, 100),
            "cut in a file": (4, -600),
            "no end": (-1, 0),
        }[damage]
        os.truncate(archive, starts[number] + after)
    with pytest.raises(ValueError, match=r"data\.tar is damaged .*delete it and try again"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", [-1, -8, 200])
def test_a_compressed_tar_with_a_wrong_checksum_is_refused(place, tmp_path):
    archive, _ = whole_tar(tmp_path, ".tgz")
    flip(archive, place)
    with pytest.raises(ValueError, match=r"data\.tgz is damaged .*delete it and try again"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_checksum_is_an_error(served, tmp_path, monkeypatch):
    folder, address, _ = served
    pack(camvid_tree(tmp_path / "source"), folder / "data.zip", "CamVid")
    monkeypatch.setattr(CamVid, "SOURCES", (Source(f"{address}/data.zip", "CamVid", sha256="0" * 64),))
    with pytest.raises(ValueError, match="SHA-256"):
        prepare(CamVid, tmp_path / "data")


def test_a_file_that_the_server_lacks_says_where_to_put_it(served, tmp_path, monkeypatch):
    _, address, _ = served
    monkeypatch.setattr(CamVid, "SOURCES", (Source(f"{address}/none.zip"),))
    with pytest.raises(OSError, match=r"404.*put it at .*data/archives/none\.zip"):
        prepare(CamVid, tmp_path / "data")


def test_what_is_not_public_says_what_to_fetch(tmp_path, capsys):
    assert main(["prepare", "cityscapes", str(tmp_path / "data")]) == 1
    said = capsys.readouterr().err
    assert "gtFine_trainvaltest.zip and unzip both there" in said
    assert str(tmp_path / "data") in said


def test_scenes_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(generator.generate, "__defaults__", (2, 1, 1, (64, 128), 0))
    assert "train 2, val 1, test 1" in prepare(Scenes, tmp_path / "scenes")


@pytest.mark.parametrize("top", [".", "nyuv2"])
def test_nyuv2_s_archives_may_hold_a_folder_or_not(top, served, tmp_path, monkeypatch):
    folder, address, _ = served
    for split in ("train", "test"):
        source = tmp_path / split
        write_pair(source / "rgb/nyu_rgb_0003.png", source / "label/new_nyu_class13_0003.png", range(14))
        pack(source / "rgb", folder / f"nyu_{split}_rgb.tgz", top)
        pack(source / "label", folder / f"nyuv2_{split}_class13.tgz", top)
    sources = [source._replace(url=f"{address}/{source.url.rpartition('/')[2]}") for source in NYUv2.SOURCES]
    monkeypatch.setattr(NYUv2, "SOURCES", tuple(sources))
    assert "train 1, test 1" in prepare(NYUv2, tmp_path / "data")


def test_sbd_s_labels_become_pngs_and_a_list(tmp_path):
    root = make_tree(tmp_path, "voc2012", count=2)
    lists = root / "ImageSets/Segmentation"
    (lists / "train.txt").write_text("000000\n")
    (lists / "val.txt").write_text("000001\n")
    (root / "SBD/cls").mkdir(parents=True)
    ids = np.arange(24 * 32).reshape(24, 32) % 21
    for name in ("extra", "000001"):
        savemat(root / f"SBD/cls/{name}.mat", {"GTcls": {"Segmentation": ids.astype(np.uint8)}})
    (root / "SBD/train.txt").write_text("extra\n")
    (root / "SBD/val.txt").write_text("000001\n")
    Image.new("RGB", (32, 24)).save(root / "JPEGImages/extra.jpg")
    Voc2012.finish(root)
    Voc2012.finish(root)
    assert (lists / "train_aug.txt").read_text().split() == ["000000", "extra"]
    dataset = Voc2012(root, "train", data_list=lists / "train_aug.txt")
    assert np.array_equal(dataset[1].label, ids)
