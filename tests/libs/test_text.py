"""Messages stay short whatever they show."""

import collections

import pytest
import torch

from segdistill.libs.text import shown


def shared(make):
    value = make(())
    for _ in range(60):
        value = make((value, value))
    return value


@pytest.mark.parametrize(
    "value",
    [
        shared(list),
        shared(tuple),
        shared(lambda pair: collections.OrderedDict(enumerate(pair))),
        "x" * 10**6,
        10**5000,
        list(range(10**6)),
        torch.zeros(1000, 1000),
        {"weight": [torch.zeros(10)] * 100},
    ],
    ids=["lists", "tuples", "dicts", "text", "number", "long list", "tensor", "list of tensors"],
)
def test_what_is_shown_is_short(value):
    assert len(shown(value)) <= 303


@pytest.mark.parametrize("value", [{"name": "pspnet", "n": 19, "on": True}, ("a", 1.5, None), [], "text", -3])
def test_what_is_short_is_shown_whole(value):
    assert shown(value) == repr(value)
