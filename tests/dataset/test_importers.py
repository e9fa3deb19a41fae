"""Every tool's export becomes a ``folder`` with the pixels of its shapes, and what cannot be converted is named."""

import base64
import json
import shutil
import sys
import zipfile
import zlib

import numpy as np
import pytest
from exports import (
    CAT,
    COLORS,
    DOG,
    EXPORTS,
    HEIGHT,
    SIZE,
    WIDTH,
    bitmap,
    brush,
    coco,
    coco_shapes,
    cvat_xml,
    inside,
    labelme,
    labels_of,
    png,
    region,
    supervisely,
    task,
    truth_of,
    write_image,
    write_json,
    write_mask,
)
from PIL import Image

import eval as evaluation
import test as prediction
import train
from segdistill.dataset import build_dataset
from segdistill.dataset.__main__ import main
from segdistill.dataset.folder import read_rows
from segdistill.dataset.importers import IMPORTERS
from segdistill.dataset.importers.convert import convert, distinct

WITH_SPLITS = ("mapillary", "roboflow", "yolo")
WITH_COLORS = ("cvat", "supervisely", "voc")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "result"


def only(folder):
    """The label map of a result whose pictures are all alike."""
    labels = [*labels_of(folder).values()]
    assert all((label == labels[0]).all() for label in labels)
    return labels[0]


def pair_of_images(root):
    """Two images, for one each in the two splits."""
    return [write_image(root / f"{name}.png").name for name in ("a", "b")]


def test_there_is_an_export_of_every_tool():
    assert {*EXPORTS} == {*IMPORTERS}


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_an_export_is_recognised_and_becomes_the_pixels_of_its_shapes(name, tmp_path, folder, capsys):
    EXPORTS[name](tmp_path / "export", 11)
    assert main(["convert", str(tmp_path / "export"), str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{IMPORTERS[name].title}: train 10, val 1 images\n")
    assert " x " not in printed, "nothing is left out"
    found = labels_of(folder)
    assert {*found} == {f"a{index}" for index in range(11)}
    for index in range(11):
        assert (found[f"a{index}"] == truth_of(index)).all()
    counts = sum(np.bincount(truth_of(index).ravel(), minlength=3) for index in range(11))
    for count in counts:
        assert f"{count:,} pixels" in printed
    assert ("a10" if name in WITH_SPLITS else "a0") in {path.stem for path in (folder / "labels/val").rglob("*.png")}
    train = build_dataset("folder", folder, "train")
    if name != "masks":
        assert train.CLASSES == ("background", "cat", "dog")
    if name in WITH_COLORS:
        assert tuple(COLORS.values()) == train.PALETTE
    assert main(["check", "folder", str(folder)]) == 0
    assert Image.open(folder / "overview.png").size[0] == 960
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", sorted(EXPORTS))
def test_a_tool_can_be_named_and_unlabelled_pixels_can_be_void(name, tmp_path, folder):
    EXPORTS[name](tmp_path / "export", 3)
    convert(tmp_path / "export", folder, format=name, unlabelled="void")
    dataset = build_dataset("folder", folder, "train")
    if name in ("masks", "mapillary"):  # every pixel has a label, of which one may be called background
        return
    assert dataset.CLASSES == ("cat", "dog")
    for label_name, label in labels_of(folder).items():
        truth = truth_of(int(label_name[1:])).astype(int) - 1
        assert (label == np.where(truth < 0, 255, truth)).all()


@pytest.mark.parametrize("name", sorted(EXPORTS))
@pytest.mark.parametrize("above", ["labels/images/masks", "SegmentationClass/test"])
def test_the_folders_above_an_export_and_hidden_files_mean_nothing(name, above, tmp_path, folder):
    root = tmp_path / above / "export"
    EXPORTS[name](root, 3)
    for path in [*root.rglob("*.*")]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")  # as a Mac's archives have them
    conversion = convert(root, folder, val_share=0.9)
    assert not conversion.problems.found
    assert conversion.num_images == ({"train": 2, "val": 1} if name in WITH_SPLITS else {"train": 1, "val": 2})
    for label_name, label in labels_of(folder).items():
        assert (label == truth_of(int(label_name[1:]))).all()


def test_a_zip_archive_and_a_single_file_are_exports_too(tmp_path, folder):
    EXPORTS["cvat"](tmp_path / "cvat", 2)
    shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path / "cvat")
    convert(tmp_path / "export.zip", folder)
    assert {*labels_of(folder)} == {"a0", "a1"}
    assert sorted(path.name for path in folder.iterdir()) == ["classes.txt", "images", "labels", "overview.png"]
    EXPORTS["coco"](tmp_path / "coco", 3)
    write_json(tmp_path / "coco/annotations/other.json", {"shapes": [], "imagePath": "x.jpg"})
    with pytest.raises(ValueError, match=r"several tools: coco \(instances.json.*labelme \(other.json.*--format"):
        convert(tmp_path / "coco", tmp_path / "none")
    convert(tmp_path / "coco/annotations/instances.json", tmp_path / "one", images=tmp_path / "coco/images")
    assert {*labels_of(tmp_path / "one")} == {"a0", "a1", "a2"}
    assert not (tmp_path / "none").exists()


def test_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path, folder):
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("../evil.xml", "<annotations/>")
    with pytest.raises(ValueError, match="leads out of the folder"):
        convert(tmp_path / "export.zip", folder)
    assert [path.name for path in tmp_path.iterdir()] == ["export.zip"]


def test_what_is_of_no_tool_is_described(tmp_path, folder, capsys):
    write_image(tmp_path / "export/a.jpg")
    write_json(tmp_path / "export/notes.json", {"one": 1, "two": 2})
    assert main(["convert", str(tmp_path / "export"), str(folder)]) == 1
    error = capsys.readouterr().err
    assert "no tool that is known" in error
    assert "1 .jpg" in error
    assert "notes.json with the keys ['one', 'two']" in error
    assert error.count("\n") == 1
    (tmp_path / "export/notes.json").write_text('{"one": ')
    assert main(["convert", str(tmp_path / "export"), str(folder)]) == 1
    assert "notes.json is no JSON" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "nothing"), str(folder)]) == 1
    assert "no " in capsys.readouterr().err
    assert not folder.exists()


def test_a_folder_that_is_not_empty_is_left_as_it_is(tmp_path, folder, capsys):
    EXPORTS["cvat"](tmp_path / "export", 2)
    folder.mkdir()
    (folder / "mine.txt").write_text("keep")
    assert main(["convert", str(tmp_path / "export"), str(folder)]) == 1
    assert "is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    (folder / "mine.txt").unlink()
    assert main(["convert", str(tmp_path / "export"), str(folder)]) == 0


def test_nothing_is_left_where_writing_fails(tmp_path, folder, monkeypatch):
    EXPORTS["cvat"](tmp_path / "export", 4)
    saved = []

    def save(image, path):
        saved.append(path)
        if len(saved) == 3:
            raise OSError("No space left on device")
        path.write_bytes(b"")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(OSError, match="No space"):
        convert(tmp_path / "export", folder)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_the_splits_of_the_source_are_kept_else_an_even_share_validates(tmp_path, folder):
    EXPORTS["labelme"](tmp_path / "export", 20)
    assert convert(tmp_path / "export", folder, val_share=0.25).num_images == {"train": 15, "val": 5}
    names = [path.stem for path in sorted((tmp_path / "export").glob("*.jpg"))]
    assert {path.stem for path in (folder / "labels/val").iterdir()} == {*names[::4]}
    again = convert(tmp_path / "export", tmp_path / "again", val_share=0.25)
    assert again.num_images == {"train": 15, "val": 5}
    for path in folder.rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(folder)).read_bytes()
    for split, numbers in {"train": range(10), "val": range(10, 14), "test": range(14, 20)}.items():
        for number in numbers:
            for suffix in (".jpg", ".json"):
                target = tmp_path / f"split/{split}/sub/a{number}{suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(tmp_path / f"export/a{number}{suffix}", target)
    assert convert(tmp_path / "split", tmp_path / "kept").num_images == {"train": 10, "val": 4, "test": 6}
    assert (tmp_path / "kept/labels/test/sub/a14.png").is_file()
    for share in (0, 1, -0.1):
        with pytest.raises(ValueError, match="share"):
            convert(tmp_path / "export", tmp_path / "none", val_share=share)


def test_one_image_is_too_few(tmp_path, folder):
    EXPORTS["labelme"](tmp_path / "export", 1)
    with pytest.raises(ValueError, match="1 images with labels; two are the least"):
        convert(tmp_path / "export", folder)
    assert not folder.exists()


def test_images_are_linked_and_same_names_stay_apart(tmp_path, folder):
    root = tmp_path / "export"
    for path in ("one/a.jpg", "two/a.jpg", "two/a.png"):
        write_image(root / path)
    shapes = [{"label": "cat", "points": CAT.tolist(), "shape_type": "polygon"}]
    for path in ("one/a.jpg", "two/a.jpg", "two/a.png"):
        write_json(root / f"{path}.json", labelme(path.split("/")[1], shapes))
    assert sum(convert(root, folder).num_images.values()) == 3
    written = {path.relative_to(folder / "images").as_posix() for path in folder.glob("images/*/**/*.*")}
    assert written == {"val/one/a.jpg", "train/two/a.jpg", "train/two/a_2.png"}
    assert (folder / "images/val/one/a.jpg").samefile(root / "one/a.jpg")
    assert {*labels_of(folder)} == {"a", "a_2"}


def test_classes_can_be_chosen(tmp_path, folder, capsys):
    EXPORTS["coco"](tmp_path / "export", 3)
    assert main(["convert", str(tmp_path / "export"), str(folder), "--classes", "dog"]) == 0
    assert "3 x shapes of the class 'cat', which is not among the classes, left out" in capsys.readouterr().out
    for name, label in labels_of(folder).items():
        assert (label == (truth_of(int(name[1:])) == 2)).all()
    with pytest.raises(ValueError, match="no class bird in the export; its classes: cat, dog"):
        convert(tmp_path / "export", tmp_path / "none", classes=["bird"])
    with pytest.raises(ValueError, match="1 classes"):
        convert(tmp_path / "export", tmp_path / "none", classes=["dog"], unlabelled="void")


def test_names_and_colours_that_a_class_file_cannot_hold_are_changed(tmp_path, folder):
    images = pair_of_images(tmp_path / "export")
    names = ["road # wet", "Unlabelled", "cat"]
    shapes = [
        {"image_id": number, "category_id": 10 * value, "segmentation": [points.ravel().tolist()]}
        for number in range(2)
        for value, points in ((1, CAT), (2, DOG))
    ]
    write_json(tmp_path / "export/x.json", coco(images, shapes, names))
    convert(tmp_path / "export", folder)
    assert [row.name for row in read_rows(folder / "classes.txt")] == ["background", "road wet", "cat", "ignore"]
    assert {*np.unique(only(folder))} == {0, 1, 255}
    made = distinct({"a": (1, 2, 3), "b": (1, 2, 3), "c": None, "d": (128, 0, 0), "e": (1, 2, 300), "f": (1, 2)})
    assert made["a"] == (1, 2, 3)
    assert made["d"] == (128, 0, 0)
    assert len({*made.values()}) == 6
    assert all(len(color) == 3 and max(color) <= 255 for color in made.values())


# What cannot be converted.


def faults(capsys, source, folder):
    """The lines on what was left out."""
    code = main(["convert", str(source), str(folder)])
    streams = capsys.readouterr()
    assert code == 0, streams.err
    return [line for line in streams.out.splitlines() if " x " in line]


def test_labels_that_cannot_be_converted_are_named_one_line_each(tmp_path, folder, capsys):
    root = tmp_path / "export"
    EXPORTS["labelme"](root, 6)
    (root / "a0.jpg").unlink()
    (root / "a1.json").write_text("{")
    (root / "a2.jpg").write_bytes(b"no image")
    write_image(root / "a3.jpg", (10, 10))
    good = {"label": "cat", "points": CAT.tolist(), "shape_type": "polygon"}
    odd = [
        {**good, "points": [[1, 1], [2, 2]]},
        {**good, "points": [[1, 1], [2, 2], [3, float("nan")]]},
        {**good, "points": [[-5, 1], [9, 1], [9, 9]]},
        {**good, "points": [[1.6, 1.6], [1.9, 1.6], [1.9, 1.9]]},
        {**good, "points": "?"},
        {**good, "shape_type": "line"},
        {**good, "shape_type": "mask", "mask": "!"},
    ]
    write_json(root / "a4.json", labelme("a4.jpg", [good, *odd]))
    shown = faults(capsys, root, folder)
    for text in (
        "annotated images that are not there",
        "a1.json is no JSON",
        "a2.jpg cannot be read",
        "another size than was annotated left out",
        "fewer than 3 points",
        "no numbers",
        "outside the image clipped",
        "cover no pixel's centre",
        "shapes of the kind 'line', which have no area",
    ):
        assert sum(text in line for line in shown) == 1, (text, shown)
    assert sum("shapes that cannot be read" in line for line in shown) == 2
    assert {*labels_of(folder)} == {"a4", "a5"}


def test_what_is_a_folder_already_or_named_wrongly_is_said(tmp_path, folder):
    EXPORTS["coco"](tmp_path / "export", 2)
    convert(tmp_path / "export", folder)
    with pytest.raises(ValueError, match=r"classes\.txt already"):
        convert(folder, tmp_path / "none")
    with pytest.raises(ValueError, match="no labelled image, read as CVAT for images"):
        convert(tmp_path / "export", tmp_path / "none", format="cvat")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mapillary", r"export holds no config\*\.json with labels"),
        ("voc", r"export holds no labelmap\.txt"),
        ("yolo", r"export holds no data\.yaml with names"),
    ],
)
def test_what_another_tool_wrote_lacks_is_said(name, message, tmp_path, folder):
    EXPORTS["coco"](tmp_path / "export", 2)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "export", folder, format=name)


def test_an_export_without_any_usable_image_writes_nothing(tmp_path, folder, capsys):
    EXPORTS["coco"](tmp_path / "export", 2)
    shutil.rmtree(tmp_path / "export/images")
    assert main(["convert", str(tmp_path / "export"), str(folder)]) == 1
    assert "holds no labelled image, read as COCO JSON. annotated images that are not there" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize("content", [{"images": 1, "annotations": [], "categories": []}, {"images": [{}]}])
def test_a_document_of_another_structure_is_an_error_of_one_line(content, tmp_path, folder, capsys):
    write_image(tmp_path / "export/a.jpg")
    write_json(tmp_path / "export/x.json", {"annotations": [], "categories": [], **content})
    assert main(["convert", str(tmp_path / "export"), str(folder)]) == 1
    assert "is not as COCO JSON writes it" in capsys.readouterr().err


# What is particular to a tool.


def test_cvat_draws_boxes_ellipses_and_masks_in_the_order_of_z(tmp_path, folder, capsys):
    names = [write_image(tmp_path / f"export/images/{split}/a.png").name for split in ("Train", "Validation")]
    shapes = (
        '<mask label="dog" rle="1, 3, 2, 4" left="20" top="2" width="5" height="2" z_order="5"/>'
        '<box label="cat" xtl="18" ytl="1" xbr="30" ybr="9" z_order="4"/>'
        '<ellipse label="dog" cx="8" cy="12" rx="6.2" ry="3.1" rotation="90" z_order="2"/>'
        '<box label="cat" xtl="4" ytl="10" xbr="12" ybr="14" rotation="90" z_order="3"/>'
        '<polyline label="cat" points="1,1;2,2;3,1" z_order="9"/><tag label="dog"/>'
        '<polygon label="bird" points="1,1;20,1;20,20" z_order="9"/>'
    )
    images = [(names[0], 'subset="Train"', shapes), (names[1], 'subset="Validation"', shapes)]
    (tmp_path / "export/annotations.xml").write_text(cvat_xml(images))
    shown = faults(capsys, tmp_path / "export", folder)
    assert len(shown) == 2
    assert any("2 x shapes of the kind 'polyline'" in line for line in shown)
    assert any("2 x shapes of the class 'bird'" in line for line in shown)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    expected = np.zeros(SIZE, int)
    expected[((x - 8) / 3.1) ** 2 + ((y - 12) / 6.2) ** 2 <= 1] = 2
    expected[8:16, 6:10] = 1
    expected[1:9, 18:30] = 1
    expected[2, 21:24] = 2
    expected[3, 21:25] = 2
    assert (only(folder) == expected).all()
    assert sorted(path.parent.name for path in folder.glob("labels/*/a.png")) == ["train", "val"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('<!DOCTYPE x [<!ENTITY a "aaaa">]><annotations><version>&a;</version></annotations>', "DOCTYPE"),
        ("<annotations><image>", "is no XML"),
        ("<annotations><track/></annotations>", "CVAT for images"),
    ],
)
def test_xml_that_is_no_cvat_for_images_is_refused(content, message, tmp_path, folder, capsys):
    write_image(tmp_path / "export/a.png")
    (tmp_path / "export/annotations.xml").write_text(content)
    assert main(["convert", str(tmp_path / "export"), str(folder)]) == 1
    assert message in capsys.readouterr().err


def test_cvat_labels_without_a_name_and_shapes_without_a_label_or_of_any_size_are_left_out(tmp_path, folder, capsys):
    names = pair_of_images(tmp_path / "export")
    shapes = (
        '<box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/><box xtl="1" ytl="1" xbr="20" ybr="20"/>'
        '<mask label="dog" rle="1,3" left="0" top="0" width="90000000" height="90000000"/>'
    )
    xml = cvat_xml([(name, "", shapes) for name in names])
    (tmp_path / "export/annotations.xml").write_text(xml.replace("<labels>", "<labels><label/>"))
    shown = faults(capsys, tmp_path / "export", folder)
    assert any("1 x labels without a name left out" in line for line in shown)
    assert any("2 x shapes that cannot be read (no 'label') left out" in line for line in shown)
    assert any("2 x masks that are larger than the image left out" in line for line in shown)
    expected = np.zeros(SIZE, int)
    expected[1:9, 1:9] = 1
    assert (only(folder) == expected).all()


def test_colour_masks_have_lists_of_splits_and_unknown_colours_are_void(tmp_path, folder, capsys):
    root = tmp_path / "export"
    EXPORTS["voc"](root, 4)
    lists = root / "ImageSets/Segmentation"
    (lists / "default.txt").unlink()
    (lists / "train.txt").write_text("a0\na1\n")
    (lists / "val.txt").write_text("a2\na3\n")
    strange = np.array(Image.open(root / "SegmentationClass/a1.png"))
    strange[:2] = 7, 8, 9
    write_mask(root / "SegmentationClass/a1.png", strange)
    write_mask(root / "SegmentationClass/a3.png", np.zeros((5, 5, 3), np.uint8))
    shown = faults(capsys, root, folder)
    assert any("pixels of the value 7,8,9, which is no class, are void" in line for line in shown)
    assert any("a label map of 5x5 for an image of 32x24" in line for line in shown)
    assert sorted(path.name for path in (folder / "labels/train").iterdir()) == ["a0.png", "a1.png"]
    assert sorted(path.name for path in (folder / "labels/val").iterdir()) == ["a2.png"]
    assert (labels_of(folder)["a1"][:2] == 255).all()
    (root / "labelmap.txt").write_text("cat\n")
    assert main(["convert", str(root), str(tmp_path / "none")]) == 1
    assert "labelmap.txt:1: expected name:R,G,B:parts:actions" in capsys.readouterr().err


def test_labelme_draws_boxes_circles_and_masks(tmp_path, folder):
    root = tmp_path / "export"
    mask = np.array([[0, 255, 255], [255, 0, 0]], np.uint8)
    shapes = [
        {"label": "dog", "points": [[12.0, 9.0], [3.0, 2.0]], "shape_type": "rectangle"},
        {"label": "cat", "points": [[20.0, 10.0], [23.0, 14.0]], "shape_type": "circle"},
        {"label": "__ignore__", "points": [[0, 20], [32, 20], [32, 24], [0, 24]], "shape_type": "polygon"},
        {
            "label": "cat",
            "points": [[4.0, 3.0], [6.0, 4.0]],
            "shape_type": "mask",
            "mask": base64.b64encode(png(mask)).decode(),
        },
    ]
    for name in pair_of_images(root):
        write_json(root / f"{name[0]}.json", labelme(f"..\\pictures\\{name}", shapes))
    (root / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\nbird\n")
    convert(root, folder)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    expected = np.zeros(SIZE, int)
    expected[2:9, 3:12] = 1
    expected[(x - 20) ** 2 + (y - 10) ** 2 <= 25] = 2
    expected[20:] = 255
    expected[3:5, 4:7][mask > 0] = 2
    assert (only(folder) == expected).all()
    assert build_dataset("folder", folder, "train").CLASSES == ("background", "dog", "cat", "bird")


def test_a_mask_that_claims_to_be_huge_is_left_out(tmp_path, folder, capsys):
    header = b"IHDR" + (200_000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    content = b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + zlib.crc32(header).to_bytes(4, "big") + b"\0\0\0\0IDAT"
    good = {"label": "cat", "points": CAT.tolist(), "shape_type": "polygon"}
    huge = {"label": "dog", "points": [[0, 0]], "shape_type": "mask", "mask": base64.b64encode(content).decode()}
    for name in pair_of_images(tmp_path / "export"):
        write_json(tmp_path / f"export/{name[0]}.json", labelme(name, [good, huge]))
    (line,) = faults(capsys, tmp_path / "export", folder)
    assert "2 x shapes that cannot be read (Image size" in line
    assert (only(folder) == inside(CAT)).all()


def test_label_studio_turns_boxes_about_their_corner_and_takes_the_ground_truth(tmp_path, folder, capsys):
    root = tmp_path / "export"
    percent = 100 / np.array([WIDTH, HEIGHT])
    (x, y), (width, height) = (20, 4) * percent, (4, 10) * percent
    shapes = [
        region("rectanglelabels", "cat", {"x": x, "y": y, "width": width, "height": height, "rotation": 90}),
        region("ellipselabels", "dog", {"x": 50, "y": 75, "radiusX": 25, "radiusY": 12.5, "rotation": 0}),
        region("brushlabels", "cat", {"format": "rle", "rle": brush([255] * 40)}),
        region("keypointlabels", "cat", {"x": 1, "y": 1}),
        {"type": "choices", "value": {"choices": ["good"]}},
    ]
    wrong = region("rectanglelabels", "dog", {"x": 0, "y": 0, "width": 100, "height": 100})
    tasks = []
    for number, name in enumerate(pair_of_images(root)):
        tasks.append(task(f"{name}?d=", shapes, number, ground_truth=True))
        tasks[-1]["data"] = {"text": "hello", "image": f"/data/local-files/?d=some/where/{name}"}
        tasks[-1]["annotations"] += [{"result": [wrong]}, {"result": [wrong], "was_cancelled": True}]
    tasks.append(task("c.png", [], 3, was_cancelled=True))
    write_json(root / "tasks.json", tasks)
    shown = faults(capsys, root, folder)
    assert sum("brush mask of 40 values" in line for line in shown) == 1
    assert sum("which have no area" in line for line in shown) == 2
    assert any("1 x tasks without an annotation" in line for line in shown)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    expected = np.zeros(SIZE, int)
    expected[4:8, 10:20] = 1  # the corner at the upper left is the one at the upper right now
    expected[((x - 16) / 8) ** 2 + ((y - 18) / 3) ** 2 <= 1] = 2
    assert (only(folder) == expected).all()


def test_coco_files_are_splits_and_crowds_are_void_under_the_rest(tmp_path, folder):
    root = tmp_path / "export"
    box = np.zeros(SIZE, bool)
    box[2:20, 3:30] = True
    runs = [3 * HEIGHT + 2, *[18, 6] * 26, 18]
    for split in ("train", "val"):
        write_image(root / f"{split}2017/a.jpg")
        crowd = {"category_id": 10, "image_id": 0, "iscrowd": 1, "segmentation": {"size": [*SIZE], "counts": runs}}
        document = coco(["a.jpg"], [*coco_shapes(0), crowd])
        write_json(root / f"annotations/instances_{split}2017.json", document)
    write_json(root / "annotations/captions_val2017.json", {"images": [], "annotations": []})
    problems = convert(root, folder).problems
    assert [*problems.found] == ["JSON files that are not COCO's left out"]
    expected = np.where(box & (truth_of(0) == 0), 255, truth_of(0))
    assert (only(folder) == expected).all()
    for split in ("train", "val"):
        assert (folder / f"images/{split}/a.jpg").samefile(root / f"{split}2017/a.jpg")


def test_coco_parts_of_an_object_are_a_union_and_boxes_alone_are_no_labels(tmp_path, folder, capsys):
    images = pair_of_images(tmp_path / "export")
    parts = [CAT.ravel().tolist(), DOG.ravel().tolist()]
    shapes = [{"image_id": n, "category_id": 10, "segmentation": parts} for n in range(2)]
    shapes += [{"image_id": 0, "category_id": 20, "segmentation": [], "bbox": [0, 0, 9, 9]}]
    shapes += [{"image_id": 0, "category_id": 77, "segmentation": parts}]
    write_json(tmp_path / "export/x.json", coco(images, shapes))
    shown = faults(capsys, tmp_path / "export", folder)
    assert any("without a segmentation" in line for line in shown)
    assert any("the category 77" in line for line in shown)
    assert (only(folder) == (inside(CAT) | inside(DOG))).all()


@pytest.mark.parametrize(
    ("size", "counts", "message"),
    [
        ([200000, 200000], [40000, 9], "run lengths of another size than the image"),
        (SIZE, [2**63 - 1, 2**63 - 1, 7], "runs of"),  # whose sum overflows to 5
    ],
)
def test_coco_run_lengths_of_too_many_pixels_are_left_out(size, counts, message, tmp_path, folder, capsys):
    images = pair_of_images(tmp_path / "export")
    wrong = {"category_id": 20, "image_id": 0, "segmentation": {"size": size, "counts": counts}}
    shapes = [{**shape, "image_id": image} for image in range(2) for shape in coco_shapes(0)]
    write_json(tmp_path / "export/x.json", coco(images, [*shapes, wrong]))
    (line,) = faults(capsys, tmp_path / "export", folder)
    assert message in line
    assert (only(folder) == truth_of(0)).all()


def test_roboflow_coco_has_a_file_in_every_split_and_a_category_for_the_project(tmp_path, folder):
    root = tmp_path / "export"
    for split in ("train", "valid", "test"):
        write_image(root / split / "a_jpg.rf.0.jpg")
        document = coco(["a_jpg.rf.0.jpg"], coco_shapes(0))
        document["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
        for category in document["categories"][1:]:
            category["supercategory"] = "animals"
        write_json(root / split / "_annotations.coco.json", document)
    conversion = convert(root, folder)
    assert conversion.title.startswith("Roboflow")
    assert conversion.num_images == {"train": 1, "val": 1, "test": 1}
    assert build_dataset("folder", folder, "test").CLASSES == ("background", "cat", "dog")
    assert (only(folder) == truth_of(0)).all()


def test_supervisely_polygons_have_holes(tmp_path, folder, capsys):
    root = tmp_path / "export"
    EXPORTS["supervisely"](root, 2)
    hole = CAT.mean(0) + (CAT - CAT.mean(0)) * 0.4
    objects = [
        {
            "classTitle": "cat",
            "geometryType": "polygon",
            "points": {"exterior": CAT.tolist(), "interior": [hole.tolist()]},
        },
        {
            "classTitle": "dog",
            "geometryType": "rectangle",
            "points": {"exterior": [[25, 20], [30, 23]], "interior": []},
        },
        {
            "classTitle": "cat",
            "geometryType": "polygon",
            "points": {"exterior": [[28, 9], [29, 10], [28, 11], [27, 10]], "interior": []},
        },
        {"classTitle": "dog", "geometryType": "point", "points": {"exterior": [[1, 1]], "interior": []}},
        {"classTitle": "dog", "geometryType": "bitmap", "bitmap": {"origin": [30, 0], "data": bitmap(np.ones((2, 9)))}},
    ]
    write_json(root / "ds/ann/a0.jpg.json", supervisely(objects))
    write_json(root / "ds/ann/a9.jpg.json", {"objects": []})
    shown = faults(capsys, root, folder)
    assert any("'point', which have no area" in line for line in shown)
    assert any("outside the image clipped" in line for line in shown)
    assert any("annotation files that cannot be read (no 'size')" in line for line in shown)
    expected = (inside(CAT) & ~inside(hole)).astype(int)
    expected[20:24, 25:31] = 2  # integers name pixels, the last ones too
    expected[:2, 30:] = 2
    expected[10, 27:29] = 1  # corners in the centres of pixels: the left one is in, the right one not
    assert (labels_of(folder)["a0"] == expected).all()


def test_mapillary_classes_that_are_not_scored_are_void_and_the_newest_version_is_read(tmp_path, folder):
    root = tmp_path / "export"
    EXPORTS["mapillary"](root, 3)
    config = json.loads((root / "config_v1.2.json").read_text())
    config["labels"] = [{**label, "readable": f"new {label['readable']}"} for label in config["labels"]]
    write_json(root / "config_v2.0.json", config)
    for path in root.glob("*/v1.2/labels/*.png"):
        labels = np.array(Image.open(path))
        labels[:3] = 3
        write_mask(root / path.parents[2].name / "v2.0/labels" / path.name, labels)
    problems = convert(root, folder).problems
    assert [reason.split(" not read")[0] for reason in problems.found] == ["labels of config_v1.2.json"]
    assert build_dataset("folder", folder, "val").CLASSES == ("new background", "new cat", "new dog")
    assert all((label[:3] == 255).all() and (label[3:] < 3).all() for label in labels_of(folder).values())


def test_yolo_names_may_be_a_table_and_boxes_are_left_out(tmp_path, folder, capsys):
    root = tmp_path / "export"
    root.mkdir()
    (root / "data.yaml").write_text(
        "path: ../datasets/pets\ntrain: images/one\nval: images/two\nnames:\n  0: cat\n  5: dog\n"
    )
    polygon = " ".join(map(str, (DOG / (WIDTH, HEIGHT)).ravel()))
    for folder_name in ("one", "two"):
        write_image(root / f"images/{folder_name}/a.jpg")
        (root / f"labels/{folder_name}").mkdir(parents=True)
        (root / f"labels/{folder_name}/a.txt").write_text(f"5 {polygon}\n0 0.5 0.5 0.1 0.1\n3 {polygon}\n0 x y z\n")
    write_image(root / "images/one/b.jpg")
    shown = faults(capsys, root, folder)
    assert any("2 x boxes, which are for detection" in line for line in shown)
    assert any("2 x lines of the class 3" in line for line in shown)
    assert any("2 x shapes that cannot be read" in line for line in shown)
    assert any("1 x images without a labels file are background" in line for line in shown)
    found = labels_of(folder)
    assert (found["a"] == 2 * inside(DOG)).all()
    assert not found["b"].any()
    assert sorted(path.name for path in (folder / "labels/val").rglob("*.png")) == ["a.png"]


def yolo_of(root, splits, paths):
    """Images with a polygon each, and a data.yaml whose ``splits`` are lines."""
    polygon = " ".join(map(str, (DOG / (WIDTH, HEIGHT)).ravel()))
    for path in paths:
        label = root / path.replace("images", "labels", 1).replace(".jpg", ".txt")
        write_image(root / path)
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"0 {polygon}\n")
    (root / "data.yaml").write_text("\n".join([*splits, "names: [dog]\n"]))


def test_yolo_splits_may_be_lists_of_images(tmp_path, folder):
    root = tmp_path / "export"
    names = [f"a{index}" for index in range(12)] + ["train"]
    splits = ["path: ../datasets/pets", f"train: {root}/train.txt", "val: [lists/one.txt, ./lists/two.txt]"]
    yolo_of(root, splits, [f"images/{name}.jpg" for name in names])
    (root / "lists").mkdir()
    (root / "train.txt").write_text("".join(f"./images/{name}.jpg\n" for name in [*names[:9], "train"]))
    (root / "lists/one.txt").write_text("images/a9.jpg\n/home/me/pets/images/a10.jpg\n")
    (root / "lists/two.txt").write_text("images/a11.jpg\nimages/b.jpg\n")
    conversion = convert(root, folder)
    assert conversion.num_images == {"train": 10, "val": 3}
    assert {path.stem for path in (folder / "labels/val").iterdir()} == {"a9", "a10", "a11"}
    assert [*conversion.problems.found.values()] == [(1, "images/b.jpg in lists/two.txt")]


def test_of_two_yolo_folders_the_inner_one_counts_and_one_that_is_not_there_is_said(tmp_path, folder):
    root = tmp_path / "export"
    yolo_of(root, ["train: images", "val: images/held", "test: ../images/later"], ["images/held/a.jpg", "images/b.jpg"])
    conversion = convert(root, folder)
    assert conversion.num_images == {"train": 1, "val": 1}
    assert [path.stem for path in (folder / "labels/val").rglob("*.png")] == ["a"]
    assert [*conversion.problems.found] == ["test: ../images/later of data.yaml is no folder or list of images here"]


def test_boxes_alone_are_no_data_set(tmp_path, folder):
    root = tmp_path / "export"
    yolo_of(root, ["train: images"], ["images/a.jpg", "images/b.jpg"])
    for path in (root / "labels").rglob("*.txt"):
        path.write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(ValueError, match=r"pixels of background only; two classes are the least.*boxes"):
        convert(root, folder)
    assert not folder.exists()


def test_images_of_a_folder_inside_the_export_are_found_once(tmp_path, folder):
    root = tmp_path / "export"
    EXPORTS["coco"](root, 3)
    inner = next(path.parent for path in sorted(root.rglob("a0.*")))
    conversion = convert(root, folder, images=inner)
    assert sum(conversion.num_images.values()) == 3
    assert not conversion.problems.found


def test_label_studios_shorter_export_is_named(tmp_path, folder):
    write_image(tmp_path / "export/a.png")
    shorter = {"id": 1, "image": "/data/upload/a.png", "annotator": 1, "annotation_id": 7, "lead_time": 3.5}
    write_json(tmp_path / "export/export.json", [shorter])
    with pytest.raises(ValueError, match=r"export\.json is Label Studio's JSON-MIN.*export it as JSON"):
        convert(tmp_path / "export", folder)


def test_an_annotation_file_without_its_images_asks_for_them(tmp_path, folder):
    EXPORTS["coco"](tmp_path / "export", 3)
    (file,) = (tmp_path / "export").rglob("*.json")
    alone = tmp_path / "annotations" / file.name
    alone.parent.mkdir()
    shutil.move(file, alone)
    with pytest.raises(ValueError, match=r"\(--images FOLDER: where they are\)"):
        convert(alone, folder)
    assert convert(alone, folder, images=tmp_path / "export").num_images == {"train": 2, "val": 1}


def test_yolo_without_pyyaml_says_what_to_install(tmp_path, folder, monkeypatch, capsys):
    EXPORTS["yolo"](tmp_path / "export", 2)
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert main(["convert", str(tmp_path / "export"), str(folder)]) == 1
    assert "pip install pyyaml" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["0 and 255", "0 and 1", "1 bit", "RGB"])
@pytest.mark.parametrize("layout", ["beside", "folders"])
def test_binary_masks_are_background_and_foreground(kind, layout, tmp_path, folder):
    root = tmp_path / "export"
    for index in range(3):
        mask = truth_of(index) > 0
        stored = {
            "0 and 255": mask.astype(np.uint8) * 255,
            "0 and 1": mask.astype(np.uint8),
            "1 bit": mask,
            "RGB": np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2),
        }[kind]
        if layout == "beside":
            write_image(root / f"a{index}.jpg")
            write_mask(root / f"a{index}_mask.png", stored)
        else:
            write_image(root / f"images/a{index}.jpg")
            write_mask(root / f"masks/a{index}.png", stored)
    convert(root, folder)
    assert build_dataset("folder", folder, "train").CLASSES == ("background", "foreground")
    for name, label in labels_of(folder).items():
        assert (label == (truth_of(int(name[1:])) > 0)).all()


def test_masks_in_colours_have_a_class_for_each(tmp_path, folder):
    root = tmp_path / "export"
    for split in ("train", "val"):
        write_image(root / f"images/{split}/a.jpg")
        write_mask(root / f"labels/{split}/a.png", np.array([*COLORS.values()], np.uint8)[truth_of(0)])
    convert(root, folder)
    dataset = build_dataset("folder", folder, "train")
    assert tuple(sorted(COLORS.values())) == dataset.PALETTE
    shown = np.array(dataset.PALETTE)[only(folder)]
    assert (shown == np.array([*COLORS.values()])[truth_of(0)]).all()


def test_a_mask_that_cannot_be_read_is_left_out(tmp_path, folder, capsys):
    root = tmp_path / "export"
    EXPORTS["masks"](root, 4)
    (root / "a0_mask.png").write_bytes(b"?")
    (root / "a1_mask.png").unlink()
    write_mask(root / "a1_mask.jpg", truth_of(1))
    write_mask(root / "a7_mask.png", truth_of(7))
    shown = faults(capsys, root, folder)
    assert any("a0_mask.png cannot be read" in line for line in shown)
    assert any("a1_mask.jpg is a mask in JPEG, which changes values" in line for line in shown)
    assert any("without an image, or with several, left out; the first: a7_mask.png" in line for line in shown)
    assert {*labels_of(folder)} == {"a2", "a3"}
    assert len(shown) == 3


def test_masks_of_blurred_edges_are_an_error(tmp_path, folder):
    root = tmp_path / "export"
    for name in ("a", "b"):
        write_image(root / f"{name}.jpg")
        write_mask(root / f"{name}_mask.png", np.linspace(0, 255, HEIGHT * WIDTH).astype(np.uint8).reshape(SIZE))
    with pytest.raises(ValueError, match="Threshold"):
        convert(root, folder)


def test_masks_of_a_few_grey_edge_pixels_are_an_error(tmp_path, folder):
    root = tmp_path / "export"
    for name in ("a", "b"):
        write_image(root / f"{name}.jpg")
        mask = np.where(truth_of(0) > 0, 255, 0).astype(np.uint8)
        mask[0, :3] = 64, 128, 191
        write_mask(root / f"{name}_mask.png", mask)
    with pytest.raises(ValueError, match=r"5 grey values.*Threshold.*255 is void"):
        convert(root, folder)


def test_classes_of_high_values_beside_little_void_are_no_blurred_edges(tmp_path, folder):
    root = tmp_path / "export"
    for name in ("a", "b"):
        write_image(root / f"{name}.jpg")
        mask = np.resize(np.uint8([0, 50, 100, 150]), SIZE)
        mask[0, :3] = 255
        write_mask(root / f"{name}_mask.png", mask)
    assert [*convert(root, folder).num_pixels] == ["class 0", "class 50", "class 100", "class 150", "void"]


def test_images_without_labels_are_counted(tmp_path, folder, capsys):
    for name, make in EXPORTS.items():
        root = tmp_path / name
        make(root, 3)
        write_image(root / "photo.png")
        assert main(["convert", str(root), str(folder / name)]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if " x " in line]
        expected = "images without a labels file are" if name == "yolo" else "images without labels left out"
        assert lines[0].startswith(f"1 x {expected}"), name
        assert lines[0].endswith("photo.png"), name
        assert all("background throughout" in line for line in lines[1:]), name


# Where the command is named.


def test_errors_of_a_folder_that_could_be_converted_name_the_command(tmp_path, folder, capsys):
    command = "python -m segdistill.dataset convert EXPORT DIR"
    assert main(["prepare", "folder", str(folder)]) == 1
    assert command in capsys.readouterr().err
    EXPORTS["masks"](tmp_path / "export", 2)
    assert main(["check", "folder", str(tmp_path / "export")]) == 1
    assert command in capsys.readouterr().err
    for stored in (truth_of(0) > 0, (truth_of(0) > 0).astype(np.uint8) * 255):
        for split in ("train", "val"):
            write_image(folder / f"images/{split}/a.png")
            write_mask(folder / f"labels/{split}/a.png", stored)
        (folder / "classes.txt").write_text("0 0,0,0 background\n1 255,0,0 pet\n")
        assert main(["check", "folder", str(folder), "--split", "train"]) == 1
        assert command in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cvat", "coco", "labelme"])
def test_what_was_converted_trains_and_is_evaluated(name, tmp_path, folder, capsys):
    EXPORTS[name](tmp_path / "export", 8)
    assert main(["convert", str(tmp_path / "export"), str(folder), "--val-share", "0.25"]) == 0
    data = ["--dataset", "folder", "--data-dir", str(folder)]
    code = train.main(
        [
            *data,
            *("--network", "espnet_c", "--network-options", "p=1", "q=1", "--batch-size", "2", "--num-steps", "3"),
            *("--num-workers", "0", "--val-every", "3", "--snapshot-dir", str(tmp_path), "--save-name", "run"),
        ]
    )
    assert code == 0
    best, figures = str(tmp_path / "run/best.pth"), tmp_path / "figures.json"
    assert evaluation.main([*data, "--checkpoint", best, "--output", str(figures), "--num-workers", "0"]) == 0
    assert len(json.loads(figures.read_text())["iou"]) == 3
    assert "3 classes (background, cat, dog)" in capsys.readouterr().out
    shown = ["--checkpoint", best, "--output", str(tmp_path / "shown"), "--save", "overlays", "--split", "val"]
    assert prediction.main([*data, *shown]) == 0
    assert len([*(tmp_path / "shown").rglob("*.png")]) == 2


def test_images_and_masks_beside_classes_are_converted_where_there_are_no_splits(tmp_path, folder):
    root = tmp_path / "mine"
    for index in range(4):
        write_image(root / f"images/{index}.jpg")
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[:4] = 1
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / f"masks/{index}.png")
    (root / "classes.txt").write_text("background\nball\n")
    assert sum(convert(root, folder).num_images.values()) == 4
    with pytest.raises(ValueError, match="already"):
        convert(folder, tmp_path / "again")
