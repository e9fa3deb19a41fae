"""One contract for every data set of the registry, on small trees made here; then what is particular to each."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from trees import LAYOUTS, SIZE, camvid_files, cityscapes_files, make_tree, write_pair

from segdistill.dataset import DATASETS, IGNORE_INDEX, build_dataset
from segdistill.dataset.check import check
from segdistill.dataset.cityscapes import Cityscapes
from segdistill.dataset.coco_stuff import CocoStuff
from segdistill.dataset.transforms import RandomCrop

labelled = sorted(LAYOUTS)  # with classes
each_dataset = pytest.mark.parametrize("name", labelled)


@each_dataset
def test_samples_are_uint8_rgb_with_train_ids(name, tmp_path):
    dataset = build_dataset(name, make_tree(tmp_path, name), "train")
    assert len(dataset) == 3
    for sample in (dataset[i] for i in range(3)):
        assert (sample.image.dtype, sample.image.shape) == (torch.uint8, (3, *SIZE))
        assert (sample.label.dtype, sample.label.shape) == (torch.uint8, SIZE)
        assert set(sample.label.unique().tolist()) <= {*range(len(dataset.CLASSES)), IGNORE_INDEX}


@each_dataset
def test_classes_and_palette_agree(name, tmp_path):
    dataset = build_dataset(name, make_tree(tmp_path, name), "train")
    assert len(dataset.CLASSES) == len(dataset.PALETTE) == len(set(dataset.PALETTE))
    assert set(dataset.ID_TO_TRAIN_ID.values()) == {*range(len(dataset.CLASSES)), IGNORE_INDEX}
    assert DATASETS[name].VALIDATION_SPLIT in DATASETS[name].SPLITS


@each_dataset
def test_an_encoded_label_is_read_as_what_it_was(name, tmp_path):
    dataset = build_dataset(name, make_tree(tmp_path, name), "train")
    train_ids = dataset[0].label.numpy()
    _, label = LAYOUTS[name](tmp_path, "000000")
    Image.fromarray(dataset.encode(train_ids)).save(label)
    assert np.array_equal(dataset[0].label, train_ids)


@each_dataset
def test_an_unknown_label_value_names_file_and_value(name, tmp_path):
    root = make_tree(tmp_path, name)
    image, label = LAYOUTS[name](root, "000001")
    write_pair(image, label, [0, 254])
    with pytest.raises(ValueError, match=rf"{label.name}.*\[254\]"):
        build_dataset(name, root, "train")[1]


@each_dataset
def test_an_image_without_label_is_named(name, tmp_path):
    root = make_tree(tmp_path, name)
    LAYOUTS[name](root, "000002")[1].unlink()
    with pytest.raises((ValueError, FileNotFoundError), match="000002"):
        build_dataset(name, root, "train")


@each_dataset
def test_a_truncated_image_is_named(name, tmp_path):
    root = make_tree(tmp_path, name)
    image, _ = LAYOUTS[name](root, "000000")
    image.write_bytes(image.read_bytes()[:-400])
    with pytest.raises(ValueError, match=rf"{image.name}.*truncated"):
        build_dataset(name, root, "train")[0]


@each_dataset
def test_a_label_of_another_size_is_named(name, tmp_path):
    root = make_tree(tmp_path, name)
    _, label = LAYOUTS[name](root, "000000")
    Image.fromarray(np.zeros((5, 6), dtype=np.uint8)).save(label)
    with pytest.raises(ValueError, match=f"{label.name} is 5x6"):
        build_dataset(name, root, "train")[0]


@each_dataset
def test_a_colour_label_is_refused_with_a_hint(name, tmp_path):
    root = make_tree(tmp_path, name)
    image, label = LAYOUTS[name](root, "000000")
    Image.open(image).save(label)
    with pytest.raises(ValueError, match="one 8-bit channel"):
        build_dataset(name, root, "train")[0]


@each_dataset
def test_a_missing_folder_and_an_empty_split_are_errors(name, tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match="split"):
        build_dataset(name, make_tree(tmp_path, name), DATASETS[name].VALIDATION_SPLIT)
    if name != "scenes":
        with pytest.raises(FileNotFoundError, match="nowhere"):
            build_dataset(name, tmp_path / "nowhere", "train")


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="camvid"):
        build_dataset("kitti", tmp_path)
    with pytest.raises(ValueError, match="val"):
        build_dataset("camvid", tmp_path, "validation")


def test_the_audit_counts_every_pixel_once(tmp_path):
    dataset = build_dataset("camvid", make_tree(tmp_path, "camvid"), "train")
    counts = check(dataset).num_pixels
    assert sum(counts) == 3 * SIZE[0] * SIZE[1]
    assert counts[-1] == sum((dataset[i].label == IGNORE_INDEX).sum() for i in range(3))


def test_the_audit_lists_all_bad_files(tmp_path):
    root = make_tree(tmp_path, "camvid")
    for index in (0, 2):
        write_pair(*camvid_files(root, f"00000{index}"), [50])
    errors = check(build_dataset("camvid", root, "train")).errors
    assert ["000000" in errors[0], "000002" in errors[1]] == [True, True]


def test_camvid_reads_its_original_list_with_its_fake_prefix(tmp_path):
    root = make_tree(tmp_path, "camvid")
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/000001.png /SegNet/CamVid/trainannot/000001.png\n\n")
    dataset = build_dataset("camvid", root, "train", data_list=tmp_path / "train.txt")
    assert [sample.name for sample in (dataset[i] for i in range(len(dataset)))] == ["000001"]


@pytest.fixture
def spread(tmp_path):
    """CamVid files of the same name in two folders, and one with blanks in its name; they hold 0, 1 and 2."""
    for value, name in enumerate(("a/train/x", "b/train/x", "train/with some blanks")):
        image, label = tmp_path / f"{name}.png", tmp_path / f"labels/{name}.png"
        write_pair(image, label, [value])
    return tmp_path


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("b/train/x.png labels/b/train/x.png", 1),
        ("/b/train/x.png  /labels/b/train/x.png", 1),
        ("/SegNet/CamVid/a/train/x.png /SegNet/CamVid/labels/a/train/x.png", 0),
        ("train/with some blanks.png\tlabels/train/with some blanks.png", 2),
        ("\ufeffa/train/x.png labels/a/train/x.png\r", 0),
    ],
)
def test_a_list_is_relative_to_the_folder(line, value, spread):
    (spread / "some.txt").write_text(f"{line}\n")
    dataset = build_dataset("camvid", spread, "val", data_list=spread / "some.txt")
    assert dataset[0].label.unique().tolist() == [value]


def test_unlabelled_images_may_have_blanks_in_their_names(spread):
    (spread / "some.txt").write_text("a/train/x.png labels/a/train/x.png\n")
    (spread / "rest.txt").write_text("train/with some blanks.png\n")
    lists = {"data_list": spread / "some.txt", "unlabelled_list": spread / "rest.txt"}
    assert build_dataset("camvid", spread, "train", **lists)[1].name == "with some blanks"


@pytest.mark.parametrize("name", ["camvid", "folder"])
def test_a_text_file_that_is_not_utf_8_is_named(name, tmp_path):
    root = make_tree(tmp_path, name)
    path = root / ("some.txt" if name == "camvid" else "classes.txt")
    path.write_bytes("Straße x\n".encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{path.name} is not UTF-8 text \(byte 4\): save it as UTF-8"):
        build_dataset(name, root, "train", data_list=path if name == "camvid" else None)


def test_voc_lists_hold_ids_and_sbd_fills_what_voc_lacks(tmp_path):
    root = make_tree(tmp_path, "voc2012", count=1)
    lists = root / "ImageSets/Segmentation"
    write_pair(root / "JPEGImages/extra.jpg", root / "SegmentationClassAug/extra.png", [7])
    write_pair(root / "JPEGImages/000000.jpg", root / "SegmentationClassAug/000000.png", [9])
    (lists / "train_aug.txt").write_text("000000\nextra\n")
    dataset = build_dataset("voc2012", root, "train", data_list=lists / "train_aug.txt")
    assert [pair.label.parent.name for pair in dataset.pairs] == ["SegmentationClass", "SegmentationClassAug"]
    assert dataset[1].label.unique().tolist() == [7]
    (lists / "test.txt").write_text("extra\n")
    assert (build_dataset("voc2012", root, "test")[0].label == IGNORE_INDEX).all()


@each_dataset
def test_names_of_classes_hold_no_stray_blanks(name, tmp_path):
    classes = build_dataset(name, make_tree(tmp_path, name), "train").CLASSES
    assert list(classes) == [" ".join(text.split()) for text in classes]


def test_coco_stuff_has_the_classes_that_occur():
    classes, table = CocoStuff.CLASSES, CocoStuff.ID_TO_TRAIN_ID
    assert len(classes) == 171
    assert [classes[table[value]] for value in (0, 12, 89, 91, 181)] == [
        *("person", "stop sign", "toothbrush", "banner", "wood"),
    ]
    assert not {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90, 182} & table.keys()


def test_a_folder_s_classes_are_those_of_its_file(tmp_path):
    dataset = build_dataset("folder", make_tree(tmp_path, "folder"), "train")
    assert dataset.CLASSES == ("grass", "garden path")
    assert dataset.PALETTE == ((0, 0, 0), (255, 0, 0))
    assert dataset.ID_TO_TRAIN_ID == {0: 0, 7: 1, 8: 0, 255: IGNORE_INDEX}


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_a_folder_s_labels_may_hold_colours(mode, tmp_path):
    root = make_tree(tmp_path, "folder")
    (root / "classes.txt").write_text("rgb 0,0,0 grass\nrgb 255,0,0 path\nrgb 1,2,3 path\nrgb 9,9,9 ignore\n")
    colors = np.array([(0, 0, 0), (255, 0, 0), (1, 2, 3), (9, 9, 9)], np.uint8)
    ids = np.random.default_rng(0).integers(0, 4, SIZE)
    label = Image.fromarray(colors[ids])
    for index in range(3):
        path = LAYOUTS["folder"](root, f"00000{index}")[1]
        (label.quantize(4) if mode == "P" else label.convert(mode)).save(path)
    dataset = build_dataset("folder", root, "train")
    train_ids = np.array([0, 1, 1, 255])[ids]
    assert np.array_equal(dataset[1].label, train_ids)
    assert np.array_equal(dataset.encode(train_ids)[ids < 2], colors[ids][ids < 2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0,0,0", "classes.txt:1: expected 'VALUE R,G,B NAME'"),
        ("# none\n0 0,0 road", "classes.txt:2: expected"),
        ("x 0,0,0 road", "classes.txt:1: expected"),
        ("256 0,0,0 road", "values and colours are 0..255"),
        ("0 0,0,300 road", "values and colours are 0..255"),
        ("0 0,0,0 road\n0 1,1,1 car", "classes.txt:2: 0 is 'road' already"),
        ("0 1,1,1 road\n1 1,1,1 car", "classes.txt:2: 'car' has the colour of 'road'"),
        ("rgb 1,1,1 road\n1 2,1,1 car", "classes.txt:2: rgb is for every line or for none"),
        ("0 0,0,0 ignore", "names no class; two are the least"),
        ("0 0,0,0 void\n1 1,1,1 building", "names one class, 'building'; two are the least, background is one"),
        ("", "names no class"),
    ],
)
def test_a_line_of_classes_that_means_nothing_is_named(text, message, tmp_path):
    root = make_tree(tmp_path, "folder")
    (root / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        build_dataset("folder", root, "train")


def test_cityscapes_maps_the_official_ids():
    table = Cityscapes.ID_TO_TRAIN_ID
    assert (table[7], table[8], table[11], table[26], table[33], table[0], table[9], table[29]) == (
        *(0, 1, 2, 13, 18),
        *(IGNORE_INDEX,) * 3,
    )


def test_cityscapes_train_ids_go_back_to_label_ids():
    train_ids = np.array([[0, 18, 255], [10, 13, 99]], dtype=np.uint8)
    assert Cityscapes.encode(train_ids).tolist() == [[7, 33, 0], [23, 26, 0]]


def test_cityscapes_list_may_name_train_id_labels(tmp_path):
    image, _ = cityscapes_files(tmp_path, "000000")
    label = tmp_path / "aachen_000000_000019_gtFine_labelTrainIds.png"
    write_pair(image, label, [*range(19), 255])
    (tmp_path / "val.lst").write_text(f"{image.relative_to(tmp_path)}\t{label.name}\n")
    dataset = build_dataset("cityscapes", tmp_path, "val", data_list=tmp_path / "val.lst")
    assert np.array_equal(dataset[0].label, np.asarray(Image.open(label)))


def test_cityscapes_test_split_needs_no_labels(tmp_path):
    image, label = cityscapes_files(tmp_path, "000000", "test")
    write_pair(image, label, [7])
    label.unlink()
    dataset = build_dataset("cityscapes", tmp_path, "test")
    assert (dataset[0].label == IGNORE_INDEX).all()


@pytest.mark.parametrize("line", ["a.png b.png c.png", "a.png"])
def test_a_malformed_list_line_is_named(line, tmp_path):
    (tmp_path / "train.lst").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"train.lst:1"):
        build_dataset("cityscapes", tmp_path, "train", data_list=tmp_path / "train.lst")


def test_a_list_that_names_a_missing_file_says_which(tmp_path):
    (tmp_path / "train.lst").write_text("a.png b.png\n")
    with pytest.raises(FileNotFoundError, match=r"train.lst:1.*a.png"):
        build_dataset("cityscapes", tmp_path, "train", data_list=tmp_path / "train.lst")


def test_preloaded_samples_are_the_files_samples(tmp_path):
    dataset = build_dataset("camvid", make_tree(tmp_path, "camvid"), "train")
    fresh = dataset[1]
    dataset.preload()
    camvid_files(tmp_path, "000001")[0].unlink()
    assert torch.equal(dataset[1].image, fresh.image)
    assert torch.equal(dataset[1].label, fresh.label)


@pytest.mark.skipif("SEGDISTILL_DATA" not in os.environ, reason="SEGDISTILL_DATA (folder of real data) is not set")
def test_real_files_are_read():
    root = os.environ["SEGDISTILL_DATA"]
    camvid = [build_dataset("camvid", f"{root}/camvid", split) for split in ("train", "val", "test")]
    assert [len(split) for split in camvid] == [367, 101, 233]
    pairs = build_dataset("cityscapes", f"{root}/cityscapes", "train", data_list=f"{root}/cityscapes/train.lst")
    assert len(pairs) == 4
    assert pairs[0].image.shape == (3, 1024, 2048)
    road = (pairs[0].label == 0).float().mean()
    assert 0.2 < road < 0.6


def test_unlabelled_images_follow_the_labelled_ones_and_are_void(tmp_path):
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            mode = "L" if folder == "trainannot" else "RGB"
            Image.new(mode, (8, 8)).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "few.txt").write_text("train/b.png trainannot/b.png\n")
    (tmp_path / "rest.txt").write_text("train/a.png\ntrain/c.png trainannot/c.png\n")
    lists = {"data_list": tmp_path / "few.txt", "unlabelled_list": tmp_path / "rest.txt"}
    dataset = build_dataset("camvid", tmp_path, "train", **lists)
    assert (len(dataset), dataset.num_labelled) == (3, 1)
    assert [dataset[i].name for i in range(3)] == ["b", "a", "c"]
    assert [bool((dataset[i].label == IGNORE_INDEX).all()) for i in range(3)] == [False, True, True]
    assert [dataset[i].key.tolist() for i in range(3)] == [[0, 0], [0, 1], [0, 2]]
    (tmp_path / "rest.txt").write_text("train/none.png\n")
    with pytest.raises(FileNotFoundError, match=r"rest\.txt:1 names .*none\.png"):
        build_dataset("camvid", tmp_path, "train", **lists)
    (tmp_path / "rest.txt").write_text("\n")
    with pytest.raises(ValueError, match="names no image"):
        build_dataset("camvid", tmp_path, "train", **lists)


@pytest.mark.parametrize("name", ["ignore", "Void", "UNLABELED", "unlabelled", "Unknown"])
def test_the_usual_names_of_void_are_void(name, tmp_path):
    root = make_tree(tmp_path, "folder")
    text = f"0 0,0,0 background\n7 255,0,0 path\n8 255,0,0 {name}\n255 9,9,9 ignore\n"
    (root / "classes.txt").write_text(text)
    dataset = build_dataset("folder", root, "train")
    assert dataset.CLASSES == ("background", "path")
    assert dataset.ID_TO_TRAIN_ID == {0: 0, 7: 1, 8: IGNORE_INDEX, 255: IGNORE_INDEX}


def picture_folder(root, sizes):
    for index, (height, width) in enumerate(sizes):
        path = root / f"images/train/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(path)
    return root


@pytest.mark.parametrize(
    ("sizes", "crop"),
    [
        ([(48, 64), (50, 70), (400, 600)], (48, 64)),
        ([(10, 300)] * 2, (10, 288)),
        ([(600, 400)], (512, 400)),
        ([(1024, 2048)], (512, 512)),
        ([], (512, 512)),
    ],
)
def test_the_crop_of_own_data_fits_the_pictures(sizes, crop, tmp_path):
    recipe = DATASETS["folder"].recipe_of(picture_folder(tmp_path, sizes))
    assert recipe == DATASETS["folder"].RECIPE._replace(input_size=crop)


def test_a_recipe_needs_no_data(tmp_path):
    for name, data_set in DATASETS.items():
        assert data_set.recipe_of(None) == data_set.recipe_of(tmp_path / "none") == data_set.RECIPE, name
    (picture_folder(tmp_path, [(48, 64)]) / "images/train/bad.png").write_text("no image")
    assert DATASETS["folder"].recipe_of(tmp_path).input_size == (48, 64)


@pytest.mark.parametrize(("crop", "share"), [((512, 512), 100), ((48, 64), 73), ((24, 32), None)])
def test_a_crop_that_is_mostly_padding_is_named(crop, share, tmp_path, caplog):
    root = make_tree(tmp_path, "camvid")
    build_dataset("camvid", root, "train", transform=RandomCrop(crop, (0.5, 1.5)))
    said = (
        f"about {share} % of every batch is padding: crops are {crop[0]}x{crop[1]}, images of CamVid train about 24x32"
    )
    assert (said in caplog.text) if share else not caplog.text
    assert ("--input-size" in caplog.text) == bool(share)


def test_lists_may_hold_absolute_paths(spread, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    image, label = elsewhere / "y.png", elsewhere / "y_label.png"
    write_pair(image, label, [4])
    (spread / "some.txt").write_text(f"{image} {label}\n")
    assert build_dataset("camvid", spread, "val", data_list=spread / "some.txt")[0].label.unique().tolist() == [4]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("a\\train\\x.png labels/a/train/x.png", r"separated by /, here it is \\"),
        ("/gone/x.png labels/a/train/x.png", "begins with / is looked for in .*, then from the system's root"),
    ],
)
def test_a_list_of_another_system_is_explained(line, hint, spread):
    (spread / "some.txt").write_text(f"{line}\n")
    with pytest.raises(FileNotFoundError, match=rf"some\.txt:1 names .*{hint}"):
        build_dataset("camvid", spread, "val", data_list=spread / "some.txt")


def test_cityscapes_train_ids_are_read_where_they_are_the_only_labels(tmp_path):
    root = make_tree(tmp_path, "cityscapes")
    for index in range(3):
        image, label = cityscapes_files(root, f"00000{index}")
        label.unlink()
        train_ids = label.with_name(label.name.replace("labelIds", "labelTrainIds"))
        write_pair(image, train_ids, [*range(19), 255])
    dataset = build_dataset("cityscapes", root, "train")
    assert dataset.unused == []
    assert np.array_equal(dataset[2].label, np.asarray(Image.open(train_ids)))
    write_pair(image, label, [7])
    with pytest.raises(ValueError, match="2 images without label"):
        build_dataset("cityscapes", root, "train")
