"""Released weights by name; how files travel is tested in tests/libs/test_download.py."""

import hashlib
import os
from pathlib import Path

import pytest

from segdistill.network.weights import fetch as table
from segdistill.network.weights.fetch import RELEASED, TORCHVISION, Released, describe_files, fetch, released

# Where $SEGDISTILL_DATA keeps what the repositories keep elsewhere.
COPIES = {
    "ESPNet/afe71c38edaee3514ca44e0adcafdf36109bf437/pretrained": "espnet_pretrained",
    "9bc95b90783fabd2a94bb77e675761be999f2a33/checkpoint/Camvid/ESP": "skd_camvid/espnet",
    "9bc95b90783fabd2a94bb77e675761be999f2a33/checkpoint/Camvid/esp-c": "skd_camvid/espnet_c",
    "9bc95b90783fabd2a94bb77e675761be999f2a33/checkpoint/Cityscapes": "skd_camvid/cityscapes",
}


@pytest.mark.skipif("SEGDISTILL_DATA" not in os.environ, reason="SEGDISTILL_DATA (folder of real data) is not set")
@pytest.mark.parametrize("name", [name for name, file in RELEASED.items() if file.sha256])
def test_digests_are_those_of_the_files(name):
    url, sha256, _ = RELEASED[name]
    ((there, here),) = [(there, here) for there, here in COPIES.items() if there in url]
    copy = Path(os.environ["SEGDISTILL_DATA"], here + url.partition(there)[2])
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == sha256


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_s_urls_carry_their_digest(name):
    url, sha256, _ = released(name)
    assert url.startswith("https://download.pytorch.org/")
    assert len(sha256) == 8


def test_a_released_file_is_fetched_to_its_name_and_checked(tmp_path, monkeypatch):
    source = tmp_path / "source.pth"
    source.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setitem(table.RELEASED, "right", Released(source.as_uri(), digest, ""))
    monkeypatch.setitem(table.RELEASED, "wrong", Released(source.as_uri(), digest[::-1], ""))
    assert fetch("right", tmp_path / "ckpt").read_bytes() == b"weights"
    with pytest.raises(ValueError, match="has changed or was damaged"):
        fetch("wrong", tmp_path / "ckpt")
    assert [path.name for path in (tmp_path / "ckpt").iterdir()] == ["right.pth"]


def test_an_unknown_name_says_the_nearest():
    with pytest.raises(ValueError, match="no released file 'resnet8'; did you mean resnet18"):
        released("resnet8")
    with pytest.raises(ValueError, match="lists them"):
        released("?")
    assert all(name in describe_files() for name in (*RELEASED, *TORCHVISION))
