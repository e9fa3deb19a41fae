"""Files of the hub, against a local server: what is pushed is fetched, kept in the cache, and refused in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN, started_hub

import eval as evaluation
import test as prediction
from segdistill.network import load_network
from segdistill.network.__main__ import main as network_tool
from segdistill.network.weights.hub import download, parse_address, push
from segdistill.utils.options import parse_options

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server, an empty cache, and nobody logged in."""
    with started_hub() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


@pytest.fixture
def teacher(hub, tiny):
    """The address of the tiny teacher."""
    hub.repos["me/tiny"] = []
    hub.commit("me/tiny", {"best.pth": (tiny / "teacher.pth").read_bytes(), "map.txt": b"road -> road\n"})
    return "hf://me/tiny"


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("hf://me/tiny", ("me/tiny", None, None)),
        ("hf://me/tiny/a/b.pth", ("me/tiny", "a/b.pth", None)),
        ("hf://me/tiny@v1", ("me/tiny", None, "v1")),
        ("hf://me/tiny@v1/b.pth", ("me/tiny", "b.pth", "v1")),
    ],
)
def test_an_address_has_a_repository_and_may_have_a_revision_and_a_file(name, address):
    assert parse_address(name) == address


@pytest.mark.parametrize("name", ["hf://me", "hf://", "hf://me/tiny/", "hf://me/a b", "hf://me/tiny@"])
def test_what_is_no_address_is_refused(name):
    with pytest.raises(ValueError, match="expected hf://USER/REPO"):
        parse_address(name)


def test_what_is_pushed_can_be_loaded_and_its_card_says_what_it_is(hub, tiny, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(tiny / "teacher.pth", run / "best.pth")
    data = ["--dataset", "camvid", "--data-dir", str(tiny / "camvid")]
    evaluation.main([*data, "--checkpoint", str(run / "best.pth"), "--output", str(run / "evaluation.json")])
    terms = [{"name": "pi", "method": "pi"}]
    options = {"dataset": "camvid", "terms": terms, "T_ckpt_path": "/home/somebody/ckpt/large.pth"}
    options |= {"teacher_network": "/home/somebody/mine.py:Large"}
    (run / "options.json").write_text(json.dumps(options))
    (tmp_path / "token").write_text(TOKEN + "\n")
    words = [str(run / "best.pth"), "me/small", "--private", "--token-file", str(tmp_path / "token")]
    capsys.readouterr()
    assert network_tool(["push", *words]) == 0
    assert capsys.readouterr().out == f"{hub.url}/me/small\n"

    (_, files), *_ = hub.repos["me/small"]
    assert files["best.pth"] == (tiny / "teacher.pth").read_bytes()
    assert hub.private == {"me/small"}
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: segdistill\n")
    for words in (
        "espnet_c p=1 q=1",
        "sky, building",
        "RGB, 1 * (x - mean) / std of 0..255, mean 123.675",
        "| mine.py:Large, by pixel-wise distillation (pi)",
        "| mIoU (%)",
        "100.00",
        "camvid val, 2 images; whole images.",
        'load_network("hf://me/small")',
        "segdistill eval --dataset camvid --data-dir DIR --checkpoint hf://me/small",
        "## Licence\n\nNone is given",
    ):
        assert words in card
    assert "somebody" not in card
    parameters = sum(parameter.numel() for parameter in load_network(tiny / "teacher.pth")[0].parameters())
    assert f"| {parameters:,}" in card


def test_figures_of_other_weights_are_not_on_the_card(hub, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    shutil.copy(tiny / "teacher.pth", tmp_path / "best.pth")
    data = ["--dataset", "camvid", "--data-dir", str(tiny / "camvid")]
    evaluation.main([*data, "--checkpoint", str(tiny / "teacher.pth"), "--output", str(tmp_path / "evaluation.json")])
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    (tmp_path / "evaluation.json").write_text(json.dumps(stored | {"sha256": "0" * 64}))
    network_tool(["push", str(tmp_path / "best.pth"), "me/small", "--license", "bsd-2-clause"])
    card = hub.repos["me/small"][-1][1]["README.md"].decode()
    assert "Not evaluated." in card
    assert card.startswith("---\nlicense: bsd-2-clause\n")
    assert "## Licence" not in card


def test_a_file_of_the_hub_is_taken_wherever_a_file_is(teacher, tiny, tmp_path, capsys):
    expected = load_network(tiny / "teacher.pth")[0].state_dict()
    loaded = load_network(teacher)[0].state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())

    data = ["--dataset", "camvid", "--data-dir", str(tiny / "camvid")]
    assert evaluation.main([*data, "--checkpoint", teacher]) == 0
    assert prediction.main([*data, f"--checkpoint={teacher}/best.pth", "--output", str(tmp_path / "out")]) == 0
    student = [*data, "--network", "espnet_c", "--network-options", "p=1", "q=1", "--pi"]
    for flags in (["--T_ckpt_path", teacher], ["--teacher-network", teacher]):
        options = parse_options([*student, *flags, "--class-map", f"{teacher}/map.txt", "--S_ckpt_path", teacher])
        assert options.teacher.teacher_network is None
        for file in (options.teacher.T_ckpt_path, options.student.S_ckpt_path):
            assert Path(file).read_bytes() == (tiny / "teacher.pth").read_bytes()
        assert Path(options.teacher.class_map).read_text() == "road -> road\n"
    network_tool(["convert", teacher, str(tmp_path / "ours.pth")])
    assert load_network(tmp_path / "ours.pth")[1].classes == load_network(teacher)[1].classes
    capsys.readouterr()
    network_tool(["fetch", teacher])
    assert Path(capsys.readouterr().out.strip()).read_bytes() == (tiny / "teacher.pth").read_bytes()


def test_a_revision_is_kept_and_the_newest_is_the_default(hub, teacher):
    first = hub.repos["me/tiny"][0][0]
    hub.commit("me/tiny", {"map.txt": b"changed"})
    assert download(f"{teacher}/map.txt").read_bytes() == b"changed"
    assert download(f"{teacher}@{first}/map.txt").read_bytes() == b"road -> road\n"


def test_safetensors_are_taken_where_there_is_no_best_pth(hub):
    hub.repos["me/other"] = []
    hub.commit("me/other", {"model.safetensors": b"tensors"})
    assert download("hf://me/other").read_bytes() == b"tensors"


def test_without_a_connection_the_cache_is_enough(hub, teacher, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between attempts
    fetched = download(teacher)
    hub.shutdown()
    hub.server_close()
    assert download(teacher) == fetched
    with pytest.raises(OSError, match=r"hf://me/tiny/map.txt is not in the cache, and http\S+ cannot be reached"):
        download(f"{teacher}/map.txt")
    with pytest.raises(OSError, match="cannot be reached"):
        push({"a.txt": b"a"}, "me/new", token=TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download(teacher) == fetched
    with pytest.raises(OSError, match=r"hf://me/tiny/map.txt is not in the cache"):
        download(f"{teacher}/map.txt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://me/nothing", "hf://me/nothing: no such repository, or not for this user (log in: hf auth login"),
        ("hf://me/tiny@v7", "hf://me/tiny@v7: the repository has no such revision"),
        ("hf://me/tiny/worst.pth", "hf://me/tiny/worst.pth: the repository has no worst.pth"),
        ("hf://me/hidden", "hf://me/hidden: no such repository, or not for this user (log in: hf auth login"),
        ("hf://me/empty", "hf://me/empty: the repository has no best.pth or model.safetensors"),
    ],
)
def test_what_is_not_there_is_one_line(hub, teacher, capsys, name, message):
    hub.repos |= {"me/hidden": [], "me/empty": []}
    hub.private.add("me/hidden")
    hub.commit("me/empty", {"README.md": b""})
    with pytest.raises(SystemExit):
        evaluation.main(["--dataset", "camvid", "--data-dir", "x", "--checkpoint", name])
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_push_without_permission_is_one_line_and_leaves_nothing(hub, tiny):
    with pytest.raises(OSError, match=r"^me/new: .* \(log in: hf auth login, or HF_TOKEN\)$"):
        push({"best.pth": tiny / "teacher.pth"}, "me/new", token="wrong")
    assert not hub.repos
    with pytest.raises(ValueError, match="expected USER/REPO"):
        push({"best.pth": tiny / "teacher.pth"}, "new", token=TOKEN)
