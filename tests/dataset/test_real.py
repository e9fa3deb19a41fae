"""Training and evaluation on real pairs of each data set that the shared folder has some of."""

import json
import os
import shutil
from pathlib import Path

import pytest

import eval as evaluation
import train
from segdistill.dataset import DATASETS, build_dataset
from segdistill.dataset.camvid import CamVid
from segdistill.dataset.check import audit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SEGDISTILL_DATA" not in os.environ, reason="SEGDISTILL_DATA (folder of real data) is not set"),
]


def some_lines(source, target, count, columns=2):
    lines = [line.split()[:columns] for line in source.read_text().splitlines()]
    target.write_text("".join("\t".join(line) + "\n" for line in lines[:count]))
    return target


def make_folder(camvid, root):
    """12 pictures of CamVid as somebody's own data."""
    for split, count in (("train", 8), ("val", 4)):
        for kind, source in (("images", camvid / split), ("labels", camvid / f"{split}annot")):
            (root / kind / split).mkdir(parents=True)
            for file in sorted(source.iterdir())[:count]:
                shutil.copy(file, root / kind / split)
    colors = [",".join(map(str, color)) for color in CamVid.PALETTE]
    rows = [f"{i} {color} {name}" for i, (color, name) in enumerate(zip(colors, CamVid.CLASSES, strict=True))]
    (root / "classes.txt").write_text("\n".join([*rows, "11 0,0,0 ignore"]))
    return root


def lists_of(name, tmp_path):
    """The folder, and the lists of pairs to train and validate on; None for the data set's own layout."""
    data = Path(os.environ["SEGDISTILL_DATA"])
    if name == "folder":
        return make_folder(data / "camvid", tmp_path / "own"), None, None
    if name == "nyuv2":
        pairs = some_lines(data / "nyuv2/pairs.txt", tmp_path / "pairs.txt", 8)
        return data / name, pairs, pairs
    if name == "voc2012":
        ids = data / "voc2012/ImageSets/Segmentation/val.txt"
        return data / name, ids, ids
    if name == "cityscapes":
        return data / name, data / "cityscapes/train.lst", data / "cityscapes/val_trainids.lst"
    lists = [some_lines(data / f"camvid/{split}.txt", tmp_path / f"{split}.txt", 8) for split in ("train", "val")]
    return data / name, *lists


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "folder", "nyuv2", "voc2012"])
def test_real_pairs_are_clean_and_train_and_evaluate(name, tmp_path):
    root, train_list, val_list = lists_of(name, tmp_path)
    split = DATASETS[name].VALIDATION_SPLIT
    verdict = audit(build_dataset(name, root, split, data_list=val_list))
    assert verdict.errors == []
    assert verdict.num_pixels[-1] < 0.5 * sum(verdict.num_pixels)

    data = ["--dataset", name, "--data-dir", str(root)]
    lists = ["--data-list", str(train_list), "--val-list", str(val_list)] if val_list else []
    network = ["--network", "espnet_c", "--network-options", "p=1", "q=1", "--input-size", "64,96"]
    steps = ["--num-steps", "2", "--batch-size", "2", "--num-workers", "0", "--cache-dir", str(tmp_path / "cache")]
    run = ["--snapshot-dir", str(tmp_path), "--save-name", "run", "--log-every", "1"]
    assert train.main([*data, *lists, *network, *steps, *run]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 2

    figures = tmp_path / "figures.json"
    words = ["--checkpoint", str(tmp_path / "run/best.pth"), "--split", split, "--output", str(figures)]
    val_words = ["--data-list", str(val_list)] if val_list else []
    assert evaluation.main([*data, *val_words, *words, "--num-workers", "0"]) == 0
    found = json.loads(figures.read_text())
    assert found["classes"] == list(build_dataset(name, root, split, data_list=val_list).CLASSES)
    assert 0 < found["pixel_accuracy"] < 1
    assert found["mean_iou"] == pytest.approx(rows[-1]["val/mean_iou"], abs=1e-3)
