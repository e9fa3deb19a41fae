"""One file, three commands, one prediction."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import eval as evaluation
import test as prediction
from segdistill.dataset import CamVid, build_dataset
from segdistill.dataset.normalization import CAFFE
from segdistill.network import build_network
from segdistill.network.weights.checkpoint import atomic_save, export_weights
from segdistill.utils.checkpoint import load_predictor
from segdistill.utils.metrics import ConfusionMatrix
from segdistill.utils.report.render import predict_rows

VOID = len(CamVid.CLASSES)


def counting_void(path):
    """As ESPNet's authors released theirs: a bare state dict, void the last of 12 classes."""
    network = build_network("espnet_c", VOID + 1, p=1, q=1)
    network.classifier.conv.weight.data[VOID] *= 4  # predicted here and there
    torch.save(network.state_dict(), path)


def of_its_own_colours_and_size(path):
    network = build_network("espnet_c", VOID, p=1, q=1)
    atomic_save(export_weights(network, CAFFE, (48, 80), classes=CamVid.CLASSES), path)


IDENTITY = "".join(f"{i} -> {i}\n" for i in range(VOID))


@pytest.mark.parametrize(
    ("write", "class_map", "flags"),
    [
        (counting_void, None, []),
        (counting_void, IDENTITY, ["--flip"]),
        (of_its_own_colours_and_size, None, ["--predict", "sliding", "--tile", "32", "48"]),
    ],
    ids=["void is a class", "void is mapped away", "tiles"],
)
def test_what_is_scored_is_what_is_written_and_what_the_report_shows(write, class_map, flags, tiny, tmp_path):
    torch.manual_seed(1)
    file, classes = tmp_path / "weights.pth", tmp_path / "classes.txt"
    write(file)
    common = ["--dataset", "camvid", "--data-dir", tiny / "camvid", "--split", "test", "--checkpoint", file, *flags]
    if class_map:
        classes.write_text(class_map)
        common += ["--class-map", classes]
    evaluation.main([*map(str, common), "--output", str(tmp_path / "evaluation.json"), "--num-workers", "0"])
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    prediction.main([*map(str, common), "--output", str(tmp_path / "out")])
    written = [np.array(Image.open(tmp_path / f"out/labels/{name}.png")) for name in range(2)]
    dataset = build_dataset("camvid", tiny / "camvid", "test")
    rows = predict_rows([(file, classes if class_map else None)], dataset, figures["protocol"], 2)

    confusion = ConfusionMatrix(VOID)
    for (_, truth, shown), ids in zip(rows, written, strict=True):
        assert np.array_equal(shown, ids)
        confusion.update(torch.from_numpy(ids), torch.from_numpy(truth))
    assert figures["iou"] == [None if value != value else value for value in confusion.iou().tolist()]
    assert figures["pixel_accuracy"] == confusion.pixel_accuracy()
    predicts_void = any((ids == VOID).any() for ids in written)
    assert predicts_void == (write is counting_void and not class_map)


def test_whose_code_may_run_says_nothing_of_what_a_file_holds(tiny):
    """A report trusts the networks of its runs; its teacher may be another one."""
    dataset = build_dataset("camvid", tiny / "camvid", "test")
    loaded = load_predictor(tiny / "teacher.pth", dataset, trusted=["pspnet"])
    assert loaded.report.config["name"] == "espnet_c"
