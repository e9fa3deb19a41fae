"""Class weights: from a file or from the labels; weights for other classes are refused by name."""

import json
import math

import pytest

from segdistill.dataset import CamVid, build_dataset
from segdistill.utils.class_weights import class_weights

LINES = "\n".join(f"{name} {number}" for number, name in enumerate(CamVid.CLASSES, 1))


@pytest.fixture
def train_set(tiny):
    return build_dataset("camvid", tiny / "camvid", "train")


def test_a_file_of_lines_or_json_in_any_order(train_set, tmp_path):
    expected = tuple(float(number) for number in range(1, 12))
    lines, table = tmp_path / "weights.txt", tmp_path / "weights.json"
    lines.write_text("\n".join(reversed(LINES.splitlines())) + "\n\n")
    table.write_text(json.dumps(dict(zip(CamVid.CLASSES, expected, strict=True))))
    assert class_weights(str(lines), train_set) == class_weights(str(table), train_set) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LINES.replace("sky", "heaven"), "heaven: not of this data set; sky: without a weight"),
        (LINES.replace("sky 1", "sky"), "holds no lines 'NAME WEIGHT'"),
        (LINES.replace("sky 1", "sky -1"), "weights of 0 or more"),
        (LINES.replace("sky 1", "sky nan"), "weights of 0 or more"),
        ('{"sky": "much"}', "or JSON of them"),
        ("{", "or JSON of them"),
        ("", "without a weight"),
    ],
)
def test_other_classes_and_other_files_are_refused(train_set, tmp_path, text, message):
    (tmp_path / "weights.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        class_weights(str(tmp_path / "weights.txt"), train_set)


@pytest.mark.parametrize("formula", ["inverse", "enet"])
def test_computed_weights_have_mean_one_over_the_pixels(train_set, formula):
    weights = class_weights(formula, train_set)
    counts = sum(train_set.read_label(i).flatten().bincount(minlength=256) for i in range(len(train_set)))[:11]
    shares = (counts / counts.sum()).tolist()
    assert sum(share * weight for share, weight in zip(shares, weights, strict=True)) == pytest.approx(1)
    assert [weight == 0 for weight in weights] == [share == 0 for share in shares]
    known = [(share, weight) for share, weight in zip(shares, weights, strict=True) if share]
    raw = [1 / share if formula == "inverse" else 1 / math.log(1.02 + share) for share, _ in known]
    assert [weight / known[0][1] for _, weight in known] == pytest.approx([value / raw[0] for value in raw])


def test_images_without_labels_do_not_count(train_set):
    train_set.keep_labels(2)
    counts = sum(train_set.read_label(i).flatten().bincount(minlength=256) for i in range(2))[:11]
    weights = class_weights("inverse", train_set)
    assert [weight > 0 for weight in weights] == (counts > 0).tolist()
