"""last.pth: whatever is changed in it is refused in one line, before anything is loaded."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from segdistill.utils.state import check_fit, read_state, verified, with_checksums


def make_content():
    """As a run writes it: nested, with tensors of several types, numbers, None, and integers as keys."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False))
    optimizer = torch.optim.Adam(network.parameters(), 0.1)
    network(torch.rand(2, 3, 5, 5)).square().mean().backward()
    optimizer.step()
    queue = {"_extra_state": {"rows": torch.arange(6).view(2, 3), "next": 1, "names": ["a", "b"]}}
    state = {"student": network.state_dict(), "losses": queue, "optimizer": optimizer.state_dict()}
    return {"step": 3, "best": 0.5, "data": "0" * 64, "teacher": None, "scaler": {}, "average": None, **state}


def places(content, path=()):
    yield path
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list | tuple) else ()
    for key in keys:
        yield from places(content[key], (*path, key))


def parent_of(content, path):
    for key in path[:-1]:
        content = content[key]
    return content


def delete(parent, key):
    del parent[key]


def rename(parent, key):
    parent[f"{key}x"] = parent.pop(key)


def retype(value):
    """What looks much the same and has another type."""
    if isinstance(value, torch.Tensor):
        return value.half() if value.dtype == torch.float32 else value.float()
    if isinstance(value, dict | tuple):
        return list(value)
    return str(value) if isinstance(value, list | bool) else [value]


def disturb(value):
    """The same type with another value."""
    if isinstance(value, dict):
        return {**value, "more": 0}
    if isinstance(value, list | tuple):
        return value[:-1]
    return "other" if value is None or isinstance(value, str) else value + 1  # of tensors, every value


CHANGES = {
    "delete": delete,
    "rename": rename,
    "retype": lambda parent, key: parent.__setitem__(key, retype(parent[key])),
    "text": lambda parent, key: parent.__setitem__(key, "text"),
    "none": lambda parent, key: parent.__setitem__(key, None),
    "other": lambda parent, key: parent.__setitem__(key, disturb(parent[key])),
}


FILE = Path("run/last.pth")


def test_what_was_written_is_read(tmp_path):
    content = make_content()
    torch.save(with_checksums(content), tmp_path / "last.pth")
    again = read_state(tmp_path / "last.pth")
    assert again.keys() == content.keys()
    assert torch.equal(again["student"]["0.weight"], content["student"]["0.weight"])
    check_fit(again, content, FILE)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_is_refused_in_one_line(change):
    sound = with_checksums(make_content())
    tried = 0
    for path in list(places(sound))[1:]:
        content = copy.deepcopy(sound)
        parent, key = parent_of(content, path), path[-1]
        if isinstance(parent, tuple) or (change is rename and not isinstance(parent, dict)):
            continue
        if change is CHANGES["none"] and parent[key] is None:
            continue
        change(parent, key)
        tried += 1
        with pytest.raises(ValueError, match=r"\A\S*/last\.pth .*--save-name\Z") as caught:
            verified(content, FILE)
        assert path[0] == "checksums" or "/".join(map(str, path[:-1])) in str(caught.value), path
    assert tried > 80


def test_what_shares_lists_deeply_is_refused_at_once():
    shared = []
    for _ in range(200):
        shared = [shared, shared]
    with pytest.raises(ValueError, match="an entry that no run wrote"):
        verified({**with_checksums(make_content()), "more": shared}, FILE)


FOREIGN = {
    "student/0.weight": lambda content: content["student"].update({"0.weight": torch.zeros(5, 3, 3, 3)}),
    "student/0.bias": lambda content: content["student"].pop("0.bias"),
    "optimizer/param_groups/0/betas/0": lambda content: content["optimizer"]["param_groups"][0].update(
        betas=(0.5, 0.999)
    ),
}


@pytest.mark.parametrize("entry", FOREIGN)
def test_the_checkpoint_of_another_run_is_refused_by_the_first_entry_that_differs(entry):
    content = make_content()
    FOREIGN[entry](content)
    with pytest.raises(ValueError, match=f"is of another run: its entry '{entry}' is .*, not"):
        check_fit(content, make_content(), FILE)
