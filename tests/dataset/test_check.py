"""Every fault that has been seen in folders of data, planted, and what the audit says of it."""

import os
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import LAYOUTS, SIZE, cityscapes_files, make_tree, png, write_pair

from segdistill.dataset import DATASETS, build_dataset
from segdistill.dataset.__main__ import main
from segdistill.dataset.check import FOLDER, check, known_verdict, require_labels
from segdistill.dataset.cityscapes import RAW_IDS
from segdistill.dataset.duplicates import shared_images, warn_of_shared_images


def colors_of(name):
    return np.array([*DATASETS[name].PALETTE], np.uint8)


def random_ids(count):
    return np.random.default_rng(1).integers(0, count, SIZE).astype(np.uint8)


def with_palette(ids, palette):
    image = Image.fromarray(ids)
    image.putpalette(np.asarray(palette, np.uint8).ravel().tolist())
    return image


def bomb(path):
    path.write_bytes(png((40_000, 40_000), b"", 2))


def rename(path, name):
    path.rename(path.with_name(name))


def replaced(make):
    """A fault that puts another image in the label's place."""
    return lambda image, label: make().save(label)


def image_replaced(make):
    return lambda image, label: make().save(image)


def rotated(image, label):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(image).save(image, exif=exif)


def permuted():
    return with_palette(random_ids(11), np.roll(colors_of("camvid"), 1, axis=0))


def quantised():
    rgb = Image.fromarray(colors_of("camvid")[random_ids(11)])
    return rgb.quantize(16)


def flip_byte(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def train_ids_everywhere(image, label):
    for file in label.parent.iterdir():
        Image.fromarray(random_ids(19)).save(file)


def loop(image, label):
    image.unlink()
    image.symlink_to(image.name)


def fifo(image, label):
    image.unlink()
    os.mkfifo(image)


def folder_for_file(image, label):
    image.unlink()
    image.mkdir()


def grey16():
    return Image.fromarray(np.full(SIZE, 4000, np.uint16))


def deep_rgb(image, label):
    rows = b"".join(b"\0" + bytes(SIZE[1] * 6) for _ in range(SIZE[0]))
    image.write_bytes(png(SIZE, zlib.compress(rows), 2, depth=16))


def as_jpeg(image, label):
    content = Image.fromarray(np.full(SIZE, 3, np.uint8))
    content.save(label, format="JPEG")


def save_pages(label, form, count=2):
    pages = [Image.fromarray(random_ids(11)) for _ in range(count)]
    pages[0].save(label, format=form, save_all=True, append_images=pages[1:])


def four_bits(image, label):
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(label, bits=4)


# name of the fault: (data set, what is done to the files of 000001, whose message, what it says)
FAULTS = {
    "value beyond the classes": (
        "camvid",
        replaced(lambda: Image.fromarray(random_ids(14))),
        "label",
        r"\[12, 13\].*docs",
    ),
    "label in the data set's colours": (
        *("camvid", replaced(lambda: Image.fromarray(colors_of("camvid")[random_ids(11)]))),
        *("label", "this data set's colours: map each colour to its id"),
    ),
    "label in other colours": (
        *("camvid", replaced(lambda: Image.fromarray(np.full((*SIZE, 3), (1, 2, 3), np.uint8)))),
        *("label", r"colours, \(1, 2, 3\).*is it a label"),
    ),
    "ids in three channels": (
        *("camvid", replaced(lambda: Image.fromarray(random_ids(11)).convert("RGB"))),
        *("label", "save one of them"),
    ),
    "permuted palette": ("camvid", replaced(permuted), "label", r"value 0 has the colour .*bicyclist here.*means sky"),
    "colours saved as a palette": ("camvid", replaced(quantised), "label", "palette-coded.*map them to ids"),
    "JPEG label": ("camvid", as_jpeg, "label", "JPEG, which changes values: write labels as PNG"),
    "camera's JPEG as label": (
        *("camvid", lambda image, label: save_pages(label, "MPO")),
        *("label", "MPO, which changes values: write labels as PNG"),
    ),
    "WebP label": ("camvid", lambda image, label: save_pages(label, "WEBP", 1), "label", "WEBP, which changes values"),
    "TIFF of two pages": (
        "camvid",
        lambda image, label: save_pages(label, "TIFF"),
        "label",
        "holds 2 pictures.*save one",
    ),
    "16-bit label": ("camvid", replaced(grey16), "label", "one 8-bit channel.*I;16B.*save its ids as 8-bit"),
    "4-bit label": ("camvid", four_bits, "label", "L;4.*save its ids as 8-bit"),
    "1-bit label": ("camvid", replaced(lambda: Image.new("1", SIZE[::-1])), "label", "stored as 1.*8-bit"),
    "label with transparency": (
        *("camvid", replaced(lambda: Image.new("RGBA", SIZE[::-1]))),
        *("label", "RGBA.*save its ids as 8-bit"),
    ),
    "train ids in labelIds": (
        *("cityscapes", replaced(lambda: Image.fromarray(random_ids(19) | (random_ids(2) * 255)))),
        *("label", r"\[255\].*labelTrainIds"),
    ),
    "train ids in all labelIds": ("cityscapes", train_ids_everywhere, None, "no value above 18.*labelTrainIds"),
    "raw NYU40 ids": ("nyuv2", replaced(lambda: Image.fromarray(random_ids(40))), "label", r"\[14.*class13"),
    "ADE's void as 255": ("ade20k", replaced(lambda: Image.new("L", SIZE[::-1], 255)), "label", r"\[255\].*1\.\.150"),
    "mis-sized label": ("camvid", replaced(lambda: Image.new("L", (9, 9))), "label", "is 9x9, its image .* 24x32"),
    "image turned by EXIF": ("camvid", rotated, "label", "24x32, its image .*32x24.*EXIF"),
    "16-bit image": ("camvid", image_replaced(grey16), "image", "I;16B.*8 bits a channel: scale"),
    "16-bit RGB image": ("camvid", deep_rgb, "image", "RGB;16B.*8 bits a channel: scale"),
    "float image": (
        *("folder", lambda image, label: Image.new("F", SIZE[::-1]).save(image, format="TIFF")),
        *("image", "F;32F.*scale it to 0..255"),
    ),
    "decompression bomb": ("camvid", lambda image, label: bomb(image), "image", "1600000000 pixels.*Cut it"),
    "label bomb": ("camvid", lambda image, label: bomb(label), "label", "1600000000 pixels.*Cut it"),
    "empty file": ("camvid", lambda image, label: image.write_bytes(b""), "image", "is empty: fetch"),
    "truncated image": (
        *("camvid", lambda image, label: image.write_bytes(image.read_bytes()[:-90])),
        *("image", "truncated.*fetch"),
    ),
    "flipped bit in an image": (
        "camvid",
        lambda image, label: flip_byte(image, 900),
        "image",
        "broken.*damaged: fetch",
    ),
    "flipped bit in a label": ("camvid", lambda image, label: flip_byte(label, 100), "label", "damaged: fetch"),
    "web page": ("voc2012", lambda image, label: image.write_text("<!DOCTYPE html><p>"), "image", "web page.*fetch"),
    "LFS pointer": (
        "camvid",
        lambda image, label: image.write_text("version https://git-lfs 1"),
        "image",
        "git lfs pull",
    ),
    "text": ("camvid", lambda image, label: label.write_text("no image"), "label", "no PNG.*fetch it again or convert"),
    "folder in place of a file": ("voc2012", folder_for_file, "image", "does not exist|is a folder"),
    "pipe in place of a file": ("camvid", fifo, "image", "a pipe or device.*move it"),
    "link to itself": ("camvid", loop, "image", "link to itself"),
    "image without label": ("camvid", lambda image, label: label.unlink(), "image", "1 images without label"),
    "label without image": ("camvid", lambda image, label: image.unlink(), "label", "1 labels without image"),
    "two images of a name": (
        *("camvid", lambda image, label: Image.open(image).save(image.with_suffix(".bmp"))),
        *("image", "which one is meant"),
    ),
    "images side by side of two suffixes": (
        *("folder", lambda image, label: Image.open(label).save(label.with_suffix(".tif"))),
        *("label", "which one is meant"),
    ),
    "unnumbered file": ("nyuv2", lambda image, label: rename(image, "frame.png"), None, "frame.png.*number"),
    "unlisted class file": (
        *("folder", lambda image, label: (image.parents[3] / "classes.txt").unlink()),
        *(None, "no .*classes.txt; it says what"),
    ),
    "colour that no class has": (
        *("folder", lambda image, label: (image.parents[3] / "classes.txt").write_text("rgb 1,1,1 a\nrgb 2,2,2 b\n")),
        *("label", r"colours of no class, \[\(0, 0, 0\).*add what is missing"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named_with_its_remedy(fault, tmp_path, capsys):
    name, plant, whose, message = FAULTS[fault]
    image, label = LAYOUTS[name](make_tree(tmp_path, name), "000001")
    assert main(["check", name, str(tmp_path), "--split", "train"]) == 0
    capsys.readouterr()
    plant(image, label)
    assert main(["check", name, str(tmp_path), "--split", "train"]) == 1
    said = capsys.readouterr().err
    expected = {"image": image.name, "label": label.name, None: ""}[whose]
    assert expected in said
    assert re.search(message, said, re.DOTALL), said


def test_a_file_that_may_not_be_read_is_named(tmp_path, capsys, monkeypatch):
    image, _ = LAYOUTS["camvid"](make_tree(tmp_path, "camvid"), "000001")
    read = Path.read_bytes

    def refuse(path):  # root, who may be running this, is never refused
        if path == image:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert main(["check", "camvid", str(tmp_path), "--split", "train"]) == 1
    assert "000001.png may not be read (permission denied)" in capsys.readouterr().err


def test_cities_with_underscores_keep_their_labels_apart(tmp_path):
    for frame, value in (("000294", 7), ("000295", 26)):
        write_pair(*cityscapes_files(tmp_path, f"000000_{frame}", city="new_york"), [value])
    dataset = build_dataset("cityscapes", tmp_path, "train")
    assert [int(dataset[i].label.max()) for i in range(2)] == [0, 13]


@pytest.mark.parametrize("suffix", [".PNG", ".webp", ".tif", ".JPEG", ".bmp"])
def test_images_of_any_suffix_are_used(suffix, tmp_path):
    image, _ = LAYOUTS["camvid"](make_tree(tmp_path, "camvid"), "000001")
    Image.open(image).save(image.with_suffix(suffix))
    image.unlink()
    assert build_dataset("camvid", tmp_path, "train")[1].image.shape == (3, *SIZE)


def test_files_that_are_not_used_are_named(tmp_path, caplog, capsys):
    root = make_tree(tmp_path, "camvid")
    (root / "train/more").mkdir()
    Image.new("RGB", (4, 4)).save(root / "train/more/x.png")
    (root / "train/notes.txt").touch()
    (root / "train/.hidden").touch()
    dataset = build_dataset("camvid", root, "train")
    assert [path.name for path in dataset.unused] == ["x.png", "notes.txt"] or len(dataset.unused) == 2
    assert "2 files are not used" in caplog.text
    assert main(["check", "camvid", str(root), "--split", "train"]) == 0
    assert "x.png" in capsys.readouterr().err


def test_folders_behind_links_are_used_and_a_link_back_ends(tmp_path):
    root = make_tree(tmp_path / "root", "folder")
    garden = root / "images/train/garden"
    garden.rename(tmp_path / "elsewhere")
    garden.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(garden)
    (root / "images/train/.thumbnails").mkdir()
    (root / "images/train/.thumbnails/x.png").touch()
    assert len(build_dataset("folder", root, "train")) == 3


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    root = make_tree(tmp_path, "camvid")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("annot"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"trainannot cannot be listed \(Permission denied\)"):
        build_dataset("camvid", root, "train")


def test_improbable_void_is_a_warning(tmp_path):
    root = make_tree(tmp_path, "camvid")
    for label in (root / "trainannot").iterdir():
        Image.fromarray(np.where(random_ids(10) < 8, 11, 3).astype(np.uint8)).save(label)
    warnings = check(build_dataset("camvid", root, "train")).warnings
    assert any("% of the pixels are void: are these the labels" in warning for warning in warnings)


@pytest.mark.parametrize("palette", ["own", "grey", "bits"])
def test_palettes_that_agree_with_the_ids_pass(palette, tmp_path):
    _, label = LAYOUTS["camvid"](make_tree(tmp_path, "camvid"), "000001")
    ids = random_ids(12)
    colors = {
        "own": np.concatenate([colors_of("camvid"), np.zeros((245, 3), np.uint8)]),
        "grey": np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1),
        "bits": np.concatenate([colors_of("voc2012"), np.zeros((235, 3), np.uint8)]),
    }[palette]
    with_palette(ids, colors).save(label)
    assert np.array_equal(build_dataset("camvid", tmp_path, "train")[1].label, np.where(ids == 11, 255, ids))


def test_statistics_are_those_of_all_pixels(tmp_path):
    dataset = build_dataset("camvid", make_tree(tmp_path, "camvid"), "train")
    verdict = check(dataset)
    pixels = np.concatenate([dataset[i].image.numpy().reshape(3, -1) for i in range(3)], axis=1)
    np.testing.assert_allclose(verdict.mean, pixels.mean(1))
    np.testing.assert_allclose(verdict.std, pixels.std(1))


def test_a_verdict_is_kept_until_the_contents_change(tmp_path, monkeypatch):
    root = make_tree(tmp_path, "camvid")
    dataset = build_dataset("camvid", root, "train")
    assert known_verdict(dataset) is None
    first = check(dataset)
    image, label = LAYOUTS["camvid"](root, "000001")
    os.utime(image)  # the same content
    monkeypatch.setattr(type(dataset), "read", None)
    assert check(dataset) == known_verdict(dataset) == first
    monkeypatch.undo()
    write_pair(image, label, [3])
    assert known_verdict(dataset) is None
    assert check(dataset).num_pixels[3] > first.num_pixels[3]


@pytest.mark.parametrize("content", ["", '{"num_images": 1', "[]", "{}", b"\xff"])
def test_a_damaged_verdict_is_made_anew(tmp_path, content):
    dataset = build_dataset("camvid", make_tree(tmp_path / "data", "camvid"), "train")
    first = check(dataset)
    (path,) = (tmp_path / "data/.segdistill").glob("train-*.json")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert known_verdict(dataset) is None
    assert check(dataset) == known_verdict(dataset) == first


def test_training_relies_on_the_verdict(tmp_path, monkeypatch):
    root = make_tree(tmp_path, "camvid")
    _, label = LAYOUTS["camvid"](root, "000001")
    good = label.read_bytes()
    Image.fromarray(random_ids(14)).save(label)
    dataset = build_dataset("camvid", root, "train")
    check(dataset)
    with pytest.raises(ValueError, match=r"found 1 errors in .* train, the first: .*000001\.png holds values"):
        require_labels(dataset)
    label.write_bytes(good)
    check(dataset)
    monkeypatch.setattr(type(dataset), "read", None)
    require_labels(dataset)


@pytest.mark.parametrize(("void", "said"), [(1.0, "void throughout"), (0.75, "75 % void")])
def test_void_is_noticed_without_a_verdict(void, said, tmp_path, caplog):
    root = make_tree(tmp_path, "camvid")
    ids = np.full(SIZE, 3, np.uint8)
    ids[-1] = 4
    ids[: int(void * SIZE[0])] = 11
    for label in (root / "trainannot").iterdir():
        Image.fromarray(ids).save(label)
    dataset = build_dataset("camvid", root, "train")
    if void == 1:
        with pytest.raises(ValueError, match=said):
            require_labels(dataset)
    else:
        require_labels(dataset)
        assert said in caplog.text


def test_an_image_that_occurs_twice_is_a_warning(tmp_path):
    root = make_tree(tmp_path, "camvid")
    first, second = (LAYOUTS["camvid"](root, name)[0] for name in ("000000", "000001"))
    second.write_bytes(first.read_bytes())
    assert any("occur twice" in warning for warning in check(build_dataset("camvid", root, "train")).warnings)


def test_a_split_that_training_does_not_need_may_be_absent(tmp_path, capsys):
    root = make_tree(tmp_path, "camvid")
    assert main(["check", "camvid", str(root)]) == 1
    assert "val: CamVid: no images of split 'val'" in capsys.readouterr().err
    for folder in ("train", "trainannot"):
        shutil.copytree(root / folder, root / folder.replace("train", "val"))
    assert main(["check", "camvid", str(root)]) == 0
    printed = capsys.readouterr()
    assert "test: training needs none (CamVid: no images of split 'test'" in printed.out
    assert "split 'test'" not in printed.err


def test_another_layout_is_named_by_what_is_there(tmp_path):
    for name in ("images/train/a.png", "labels/train/a.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    (tmp_path / "classes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"which holds classes.txt, images, labels: is it --dataset folder\?"):
        build_dataset("camvid", tmp_path, "train")
    (tmp_path / "classes.txt").write_text("0 0,0,0 a\n1 1,1,1 b\n")
    with pytest.raises(FileNotFoundError, match=r"Folder: no images of split 'val' .*images, labels \(layouts"):
        build_dataset("folder", tmp_path, "val")


def paint(root, split="train", values=(0,)):
    """All labels of a CamVid split as rows of these values."""
    for label in (root / f"{split}annot").iterdir():
        Image.fromarray(np.resize(np.uint8(values), SIZE[::-1]).T.copy()).save(label)


@pytest.mark.parametrize("checked", [True, False])
def test_labels_of_one_class_alone_are_refused(checked, tmp_path, capsys):
    root = make_tree(tmp_path, "camvid")
    paint(root, values=(0, 11, 11))
    dataset = build_dataset("camvid", root, "train")
    if checked:
        assert main(["check", "camvid", str(root), "--split", "train"]) == 1
        assert "'sky' is the only class that occurs (67 % of the pixels are void)" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"'sky' is the only class that occurs \(67 % .*two are the least"):
        require_labels(dataset)


@pytest.mark.parametrize("checked", [True, False])
def test_classes_without_a_pixel_are_named_before_training(checked, tmp_path, caplog):
    root = make_tree(tmp_path, "camvid")
    paint(root, values=(0, *range(2, 11)))
    dataset = build_dataset("camvid", root, "train")
    if checked:
        check(dataset)
    require_labels(dataset)
    assert "hold no pixel of 1 classes: building" in caplog.text


def test_a_second_class_is_looked_for_in_all_labels(tmp_path):
    root = make_tree(tmp_path, "camvid", count=9)
    paint(root)
    _, last = LAYOUTS["camvid"](root, "000008")
    Image.fromarray(random_ids(2)).save(last)
    require_labels(build_dataset("camvid", root, "train"), num_images=1)


def shared_tree(root):
    """CamVid with one image of train under another name in val, and another image of the same size there."""
    make_tree(root, "camvid")
    write_pair(root / "val/x.png", root / "valannot/x.png", [1])
    write_pair(root / "val/z.png", root / "valannot/z.png", [1])
    shutil.copy(root / "train/000001.png", root / "val/x.png")
    return root


def test_images_that_are_in_two_splits_are_named(tmp_path, capsys):
    root = shared_tree(tmp_path)
    main(["check", "camvid", str(root)])
    said = capsys.readouterr().err
    assert re.search(r"warning: 1 images of train are in val too, the first: .*000001\.png and .*x\.png", said), said


def test_images_of_equal_size_and_middle_are_not_taken_for_one(tmp_path):
    for name, edge in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / name).write_bytes(edge + bytes(1 << 17))
    a, b, c = (tmp_path / name for name in "abc")
    assert shared_images([a], [b, c]) == [(a, c)]
    (tmp_path / "link").symlink_to(a)
    assert shared_images([a], [tmp_path / "none", tmp_path / "link"]) == [(a, tmp_path / "link")]


def test_what_is_learned_and_validates_is_named_before_training(tmp_path, caplog):
    root = shared_tree(tmp_path)
    (root / "few.txt").write_text("train/000000.png trainannot/000000.png\n")
    (root / "rest.txt").write_text("train/000001.png\ntrain/000000.png\n")
    lists = {"data_list": root / "few.txt", "unlabelled_list": root / "rest.txt"}
    train_set, val_set = build_dataset("camvid", root, "train", **lists), build_dataset("camvid", root, "val")
    warn_of_shared_images(train_set, val_set)
    assert [record.getMessage().partition(", the first")[0] for record in caplog.records] == [
        "1 images are in training and in images without labels",
        "1 images are in images without labels and in validation",
    ]
    caplog.clear()
    warn_of_shared_images(build_dataset("camvid", root, "train"), None)
    assert not caplog.records


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"errors": []}'])
def test_a_damaged_verdict_is_replaced(content, tmp_path):
    dataset = build_dataset("camvid", make_tree(tmp_path, "camvid"), "train")
    first = check(dataset)
    for path in (tmp_path / FOLDER).glob("train-*.json"):
        path.write_text(content)
    assert known_verdict(dataset) is None
    assert check(dataset) == known_verdict(dataset) == first


def test_polegroup_has_the_colour_of_pole(tmp_path):
    _, label = LAYOUTS["cityscapes"](make_tree(tmp_path, "cityscapes"), "000000")
    palette = np.zeros((256, 3), np.uint8)
    for train_id, value in enumerate(RAW_IDS):
        palette[value] = DATASETS["cityscapes"].PALETTE[train_id]
    palette[18] = palette[17]
    with_palette(np.resize(np.uint8([17, 18, 7]), SIZE), palette).save(label)
    dataset = build_dataset("cityscapes", tmp_path, "train")
    assert dataset[0].label.flatten()[:3].tolist() == [5, 255, 0]
    palette[19] = palette[17]
    with_palette(np.resize(np.uint8([17, 19]), SIZE), palette).save(label)
    with pytest.raises(ValueError, match=r"value 19 has the colour .*pole here"):
        dataset[0]


def test_a_disk_that_fails_is_one_line(tmp_path, capsys, monkeypatch):
    root = make_tree(tmp_path, "camvid")

    def fail(dataset, index):
        raise OSError(5, "Input/output error", str(root))

    monkeypatch.setattr(DATASETS["camvid"], "read", fail)
    assert main(["check", "camvid", str(root), "--split", "train"]) == 1
    assert "Input/output error" in capsys.readouterr().err.splitlines()[-1]
