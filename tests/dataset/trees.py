"""Small data sets in the layout of each name of the registry, and files that no library writes."""

import struct
import zlib

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


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size, stream, color_type, depth=8, interlaced=False):
    """A PNG with right checksums, whatever its compressed stream holds."""
    header = struct.pack(">IIBBBBB", size[1], size[0], depth, color_type, 0, 0, interlaced)
    palette = chunk(b"PLTE", bytes(range(48))) if color_type == 3 else b""
    parts = chunk(b"IHDR", header), palette, chunk(b"IDAT", stream), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(pages, tile=None):
    """A TIFF of pages (pixels (H, W, bands), tags of short integers), in strips or in tiles of ``tile`` pixels."""
    out, link = bytearray(b"II*\0\0\0\0\0"), 4
    for pixels, more in pages:
        height, width, count = (*pixels.shape, 1)[:3]
        step = tile or max(height, width)
        blocks = []
        for y in range(0, height, step):
            for x in range(0, width, step):
                part = pixels[y : y + step, x : x + step]
                pad = [(0, (tile or size) - size) for size in part.shape[:2]]
                blocks.append(np.pad(part, [*pad, (0, 0)][: part.ndim]).tobytes())
        places = []
        for block in blocks:
            places.append(len(out))
            out += block
        tags = {256: [width], 257: [height], 258: [8 * pixels.itemsize] * count, 259: [1]}
        tags |= {262: [2 if count > 2 else 1], 277: [count], **more}
        tags |= {322: [tile], 323: [tile], 324: places} if tile else {273: places, 278: [height]}
        tags[325 if tile else 279] = [len(block) for block in blocks]
        entries = []
        for tag, values in sorted(tags.items()):
            wide = tag in (273, 279, 324, 325)
            raw = struct.pack(f"<{len(values)}{'I' if wide else 'H'}", *values)
            if len(raw) > 4:
                raw, place = struct.pack("<I", len(out)), raw
                out += place
            entries.append(struct.pack("<HHI", tag, 4 if wide else 3, len(values)) + raw.ljust(4, b"\0"))
        out[link : link + 4] = struct.pack("<I", len(out))
        out += struct.pack("<H", len(entries)) + b"".join(entries)
        link = len(out)
        out += bytes(4)
    return bytes(out)
