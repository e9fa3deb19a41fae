"""Small data sets in the layout of each name of the registry."""

import numpy as np
from PIL import Image

from segdistill.dataset import DATASETS

SIZE = (24, 32)
CLASSES_TXT = "0 0,0,0 grass  # and moss\n7 255,0,0 garden path\n8 0,255,0 grass\n\n255 9,9,9 ignore\n"


def write_pair(image, label, values):
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(map(ord, str(image.name))))
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(image)
    Image.fromarray(rng.choice(np.array(values, dtype=np.uint8), SIZE)).save(label)


def camvid_files(root, name, split="train"):
    return root / split / f"{name}.png", root / f"{split}annot" / f"{name}.png"


def cityscapes_files(root, name, split="train", city="aachen"):
    stem = f"{city}_{name}_000019"
    image = root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
    return image, root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png"


def nyuv2_files(root, name):
    return root / f"nyu_train_rgb/nyu_rgb_{name}.png", root / f"nyuv2_train_class13/new_nyu_class13_{name}.png"


def two_folders(images, labels, suffix=".jpg"):
    return lambda root, name: (root / images / f"{name}{suffix}", root / labels / f"{name}.png")


LAYOUTS = {
    "ade20k": two_folders("images/training", "annotations/training"),
    "camvid": camvid_files,
    "cityscapes": cityscapes_files,
    "coco_stuff": two_folders("images/train2017", "annotations/train2017"),
    "folder": two_folders("images/train/garden", "labels/train/garden", ".PNG"),
    "nyuv2": nyuv2_files,
    "scenes": cityscapes_files,
    "voc2012": two_folders("JPEGImages", "SegmentationClass"),
}


def make_tree(root, name, count=3):
    names = [f"00000{index}" for index in range(count)]
    values = sorted(DATASETS[name].ID_TO_TRAIN_ID) or [0, 7, 8, 255]
    for pair in names:
        write_pair(*LAYOUTS[name](root, pair), values)
    if name == "folder":
        (root / "classes.txt").write_text(CLASSES_TXT)
    if name == "voc2012":
        lists = root / "ImageSets/Segmentation"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("\n".join(names))
    return root
