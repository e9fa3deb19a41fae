"""Downloads from a server on this machine that can break off, refuse ranges and change its file."""

import hashlib
import http.server
import resource
import threading
from types import SimpleNamespace

import pytest

from segdistill.libs.download import download

CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server.site
        site["requests"].append(self.headers.get("Range"))
        content = site["content"]
        if content is None:
            return self.send_error(404)
        start = 0
        if self.headers.get("Range") and site["ranges"]:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", hashlib.md5(content).hexdigest())
        self.end_headers()
        return self.wfile.write(content[start : site["break_at"]])

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    """What the server does; ``url`` is where its file is."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = {"content": CONTENT, "ranges": True, "break_at": None, "requests": []}
    server.site = site
    site["url"] = f"http://127.0.0.1:{server.server_port}/file.pth"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sha256", [DIGEST, DIGEST[:8], DIGEST.upper(), None])
def test_a_file_arrives_whole_and_leaves_nothing_else(site, tmp_path, sha256):
    target = tmp_path / "new" / "file.pth"
    assert download(site["url"], target, sha256) == target
    assert target.read_bytes() == CONTENT
    assert names(target.parent) == ["file.pth"]
    download(site["url"], target, sha256)
    assert len(site["requests"]) == 1, "what is there is not fetched again"


def test_a_file_url_is_copied(tmp_path):
    (tmp_path / "source").write_bytes(CONTENT)
    download((tmp_path / "source").as_uri(), tmp_path / "file.pth", DIGEST)
    assert (tmp_path / "file.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_is_continued(site, tmp_path, ranges):
    site |= {"ranges": ranges, "break_at": 700_000}
    with pytest.raises(OSError, match="broke off after 700,000 of 1,048,576 bytes: the same command again continues"):
        download(site["url"], tmp_path / "file.pth", DIGEST)
    assert not (tmp_path / "file.pth").exists()
    site["break_at"] = None
    download(site["url"], tmp_path / "file.pth", DIGEST)
    assert (tmp_path / "file.pth").read_bytes() == CONTENT
    assert site["requests"][-1] == "bytes=700000-"
    assert names(tmp_path) == ["file.pth"]


def test_halves_of_two_versions_are_never_joined(site, tmp_path):
    site["break_at"] = 700_000
    with pytest.raises(OSError, match="broke off"):
        download(site["url"], tmp_path / "file.pth")
    site |= {"break_at": None, "content": CONTENT[::-1]}
    download(site["url"], tmp_path / "file.pth")
    assert (tmp_path / "file.pth").read_bytes() == CONTENT[::-1]
    assert names(tmp_path) == ["file.pth"]


def test_another_content_is_refused_and_not_kept(site, tmp_path):
    site["content"] = CONTENT[:-1] + b"x"
    with pytest.raises(ValueError, match=rf"expected {DIGEST}: .* has changed or was damaged"):
        download(site["url"], tmp_path / "file.pth", DIGEST)
    assert names(tmp_path) == []
    (tmp_path / "file.pth").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"move .*file\.pth away"):
        download(site["url"], tmp_path / "file.pth", DIGEST)
    assert (tmp_path / "file.pth").read_bytes() == b"mine"


def test_what_is_not_there_is_an_error_that_names_it(site, tmp_path):
    site["content"] = None
    with pytest.raises(OSError, match=r"http://127.*/file\.pth: the server says 404"):
        download(site["url"], tmp_path / "file.pth")
    with pytest.raises(OSError, match="cannot be reached"):
        download("http://127.0.0.1:1/file.pth", tmp_path / "file.pth")
    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["ftp://host/file", "data:,x", "/etc/hostname", "s3://bucket/file"])
def test_other_kinds_of_urls_are_refused(url, tmp_path):
    with pytest.raises(ValueError, match="only http, https and file URLs"):
        download(url, tmp_path / "file")


def test_a_disk_without_room_is_found_before_the_first_byte(site, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(OSError, match=r"needs 1,048,576 bytes, .* has 1 left"):
        download(site["url"], tmp_path / "file.pth")
    assert names(tmp_path) == []


def test_a_write_that_fails_keeps_what_came_and_continues_later(site, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, limits[1]))
    try:
        with pytest.raises(OSError, match="could not write"):
            download(site["url"], tmp_path / "file.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "file.pth").exists()
    download(site["url"], tmp_path / "file.pth", DIGEST)
    assert site["requests"][-1] == "bytes=600000-"
