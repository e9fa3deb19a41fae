"""The files of finished runs, written by hand."""

import hashlib
import json
import shutil

PI = {"name": "pi", "method": "pi", "weight": 10.0, "on": "logits"}
PA = {"name": "pa", "method": "pa", "weight": 0.5, "on": "layer3"}

PROTOCOL = {"predict": "whole", "scales": [1.0], "flip": False, "input_size": None, "count_void": False}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def change(path, **changes):
    """Change entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_lines(folder, *lines, end="\n"):
    (folder / "metrics.jsonl").write_text("\n".join(lines) + end)


def cells(table):
    """The cells of the lines of markdown tables, header and rule included."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]


def evaluation(mean_iou=0.5, **changes):
    return {
        "checkpoint": "best.pth",
        "sha256": "0",
        "network": {"name": "espnet_c", "num_classes": 11, "p": 2, "q": 3},
        "parameters": 1_234_567,
        "dataset": "camvid",
        "data_dir": "data",
        "split": "test",
        "data_list": None,
        "num_images": 2,
        "images": "images",
        "protocol": PROTOCOL,
        "mean_iou": mean_iou,
        "pixel_accuracy": 0.8,
        "class_accuracy": 0.6,
        "frequency_weighted_iou": 0.7,
        "category_iou": {},
        "mean_category_iou": None,
        "classes": ["road", "sky"],
        "iou": [mean_iou, None],
        "accuracy": [0.6, None],
    } | changes


def metrics(terms, mean_iou, num_steps=20):
    """Rows as a run writes them: losses and shares at half time and at the end, then a validation."""
    names = ["cross_entropy", *(term["name"] for term in terms)]
    rows = [
        {"step": step, "loss": 2.0, **{f"loss/{name}": 1 / step for name in names}, "lr": 0.1}
        | {f"share/{name}": (0.8 if name == "cross_entropy" else 0.2) if terms else 1.0 for name in names}
        for step in (num_steps // 2, num_steps)
    ]
    return [*rows, {"step": num_steps, "val/mean_iou": mean_iou, "val/pixel_accuracy": 0.8}]


def write_run(folder, tiny, terms, seed, mean_iou, options):
    """A finished and evaluated run; its weights are those of the tiny teacher."""
    folder.mkdir()
    settings = {
        "dataset": "camvid",
        "data_dir": str(tiny / "camvid"),
        "data_list": None,
        "network": "espnet_c",
        "network_options": {"p": 2, "q": 3},
        "norm": "batch_norm",
        "T_ckpt_path": str(tiny / "teacher.pth") if terms else None,
        "seed": seed,
        "num_steps": 20,
        "batch_size": 2,
        "optimizer": "sgd",
        "lr_g": 0.01,
        "save_name": folder.name,
        "resume": False,
        "num_workers": 0,
        "val_every": 20,
        "device": None,
        "terms": terms,
    }
    (folder / "options.json").write_text(json.dumps(settings | options))
    (folder / "environment.json").write_text(json.dumps({"date": f"day {seed}", "torch": "2.12.0"}))
    write_lines(folder, *map(json.dumps, metrics(terms, mean_iou)))
    shutil.copy(tiny / "teacher.pth", folder / "best.pth")
    place = {"checkpoint": f"elsewhere/{folder.name}/best.pth", "data_dir": str(tiny / "camvid")}
    figures = evaluation(mean_iou, **place, sha256=sha256(folder / "best.pth"))
    (folder / "evaluation.json").write_text(json.dumps(figures))
    if terms:
        record = {"file": "teacher.pth", "sha256": sha256(tiny / "teacher.pth"), "mean_iou": 0.9, "num_images": 2}
        (folder / "teacher.json").write_text(json.dumps(record))
    return folder
