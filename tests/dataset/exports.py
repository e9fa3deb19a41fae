"""Small exports by hand, in the formats of the tools' documentation: the same pictures, written by each tool."""

import base64
import io
import json
import zlib
from pathlib import Path

import numpy as np
from matplotlib.path import Path as Outline
from PIL import Image

SIZE = HEIGHT, WIDTH = 24, 32
NAMES = "cat", "dog"
COLORS = {"background": (0, 0, 0), "cat": (200, 30, 40), "dog": (30, 60, 220)}
CAT = np.array([(2.2, 3.1), (20.7, 4.4), (17.3, 18.9), (4.6, 15.2)])
DOG = np.array([(12.1, 8.3), (28.6, 9.7), (25.2, 21.4), (10.4, 19.8)])  # over the cat


def inside(points, size=SIZE):
    """bool (H, W): the pixels whose centres matplotlib finds in a polygon."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return Outline(points).contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(size)


def shapes_of(index):
    shift = 0.31 * index, 0.17 * index
    return [("cat", CAT + shift), ("dog", DOG + shift)]


def truth_of(index):
    labels = np.zeros(SIZE, np.uint8)
    for value, (_, points) in enumerate(shapes_of(index), 1):
        labels[inside(points)] = value
    return labels


def write_image(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(map(ord, path.stem)))
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def write_mask(path, mask, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image.putpalette([channel for color in palette for channel in color])
    image.save(path)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def hexed(name):
    return "#{:02x}{:02x}{:02x}".format(*COLORS[name])


def cvat_xml(images, names=NAMES):
    """``images``: (name, attributes, the elements of its shapes)."""
    labels = "".join(f"<label><name>{name}</name><color>{hexed(name)}</color></label>" for name in names)
    elements = "".join(
        f'<image id="{i}" name="{name}" width="{WIDTH}" height="{HEIGHT}" {attributes}>{shapes}</image>'
        for i, (name, attributes, shapes) in enumerate(images)
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
        f"<meta><task><labels>{labels}</labels></task></meta>{elements}</annotations>"
    )


def cvat_polygon(label, points, z_order=0):
    text = ";".join(f"{x:.2f},{y:.2f}" for x, y in points)
    return f'<polygon label="{label}" occluded="0" source="manual" points="{text}" z_order="{z_order}"/>'


def write_cvat(root, count):
    images = []
    for index in range(count):
        write_image(root / f"images/a{index}.png")
        # The dog is above, and first in the file.
        (cat, cat_points), (dog, dog_points) = shapes_of(index)
        images.append((f"a{index}.png", "", cvat_polygon(dog, dog_points, 1) + cvat_polygon(cat, cat_points)))
    (root / "annotations.xml").write_text(cvat_xml(images))


def write_voc(root, count):
    lines = [f"{name}:{','.join(map(str, color))}::" for name, color in COLORS.items()]
    root.mkdir(parents=True, exist_ok=True)
    (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *lines]))
    for index in range(count):
        write_image(root / f"JPEGImages/a{index}.jpg")
        colors = np.array([*COLORS.values()], np.uint8)[truth_of(index)]
        write_mask(root / f"SegmentationClass/a{index}.png", colors)
        write_mask(root / f"SegmentationObject/a{index}.png", colors)
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("".join(f"a{index}\n" for index in range(count)))


def labelme(name, shapes, size=SIZE):
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": [{"group_id": None, "flags": {}, "mask": None, **shape} for shape in shapes],
        "imagePath": name,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }


def write_labelme(root, count):
    for index in range(count):
        write_image(root / f"a{index}.jpg")
        shapes = [
            {"label": label, "points": points.tolist(), "shape_type": "polygon"} for label, points in shapes_of(index)
        ]
        write_json(root / f"a{index}.json", labelme(f"a{index}.jpg", shapes))


def brush(values, run=True):
    """Label Studio's packing of uint8 values, as runs or one by one."""
    bits = f"{len(values):032b}{7:05b}{0:04b}{3:04b}{7:04b}{15:04b}"
    place = 0
    while place < len(values):
        end = place + 1
        while end < len(values) and end - place < 1 << 16 and (not run or values[end] == values[place]):
            end += 1
        width, length = (0, end - place - 1) if end - place <= 2 else (3, end - place - 1)
        bits += f"{int(run)}{width:02b}{length:0{(1, 4, 8, 16)[width]}b}"
        bits += "".join(f"{value:08b}" for value in (values[place : place + 1] if run else values[place:end]))
        place = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]


def region(kind, label, value, size=SIZE):
    return {
        "type": kind,
        "from_name": "label",
        "to_name": "image",
        "original_height": size[0],
        "original_width": size[1],
        "image_rotation": 0,
        "value": {**value, kind: [label]},
    }


def task(name, results, number=1, **more):
    return {
        "id": number,
        "data": {"image": f"/data/upload/3/{name}"},
        "annotations": [{"id": 1, "was_cancelled": False, "ground_truth": False, "result": results, **more}],
        "predictions": [],
    }


def write_label_studio(root, count):
    tasks = []
    for index in range(count):
        write_image(root / f"images/a{index}.jpg")
        (cat, cat_points), (dog, dog_points) = shapes_of(index)
        points = (cat_points * 100 / (WIDTH, HEIGHT)).tolist()
        mask = np.repeat(inside(dog_points).ravel()[:, None] * 255, 4, axis=1).ravel()
        tasks.append(
            task(
                f"0123abcd-a{index}.jpg",
                [
                    region("polygonlabels", cat, {"points": points, "closed": True}),
                    region("brushlabels", dog, {"format": "rle", "rle": brush(mask.tolist(), run=index % 2 == 0)}),
                ],
                index,
            )
        )
    write_json(root / "project-1.json", tasks)


def coco(images, annotations, names=NAMES):
    return {
        "images": [
            {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH} for number, name in enumerate(images)
        ],
        "annotations": [{"id": number, "iscrowd": 0, **annotation} for number, annotation in enumerate(annotations)],
        "categories": [{"id": 10 * number, "name": name} for number, name in enumerate(names, 1)],
    }


def coco_shapes(index):
    return [
        {"image_id": index, "category_id": 10 * value, "segmentation": [points.ravel().tolist()]}
        for value, (_, points) in enumerate(shapes_of(index), 1)
    ]


def write_coco(root, count):
    names = [write_image(root / f"images/a{index}.jpg").name for index in range(count)]
    shapes = [shape for index in range(count) for shape in coco_shapes(index)]
    write_json(root / "annotations/instances.json", coco(names, shapes))


def write_roboflow(root, count):
    for folder, indices in {"train": range(count - 1), "valid": [count - 1]}.items():
        (root / folder).mkdir(parents=True)
        (root / folder / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cat\n2, dog\n")
        for index in indices:
            write_image(root / f"{folder}/a{index}.jpg")
            write_mask(root / f"{folder}/a{index}_mask.png", truth_of(index))


def supervisely(objects, size=SIZE):
    return {"description": "", "tags": [], "size": {"height": size[0], "width": size[1]}, "objects": objects}


def bitmap(mask):
    return base64.b64encode(zlib.compress(png(mask.astype(np.uint8) * 255))).decode()


def write_supervisely(root, count):
    classes = [{"title": name, "shape": "any", "color": hexed(name).upper()} for name in NAMES]
    write_json(root / "meta.json", {"classes": classes, "tags": [], "projectType": "images"})
    for index in range(count):
        write_image(root / f"ds/img/a{index}.jpg")
        (cat, cat_points), (dog, dog_points) = shapes_of(index)
        mask = inside(dog_points)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        objects = [
            {
                "classTitle": cat,
                "geometryType": "polygon",
                "points": {"exterior": cat_points.tolist(), "interior": []},
            },
            {
                "classTitle": dog,
                "geometryType": "bitmap",
                "bitmap": {"origin": [int(columns[0]), int(rows[0])], "data": bitmap(cut)},
            },
        ]
        write_json(root / f"ds/ann/a{index}.jpg.json", supervisely(objects))


def write_mapillary(root, count):
    names = [*COLORS, "Unlabeled"]
    labels = [
        {"name": f"x--{name}", "readable": name, "color": [value, 9, 9], "evaluate": name != "Unlabeled"}
        for value, name in enumerate(names)
    ]
    write_json(root / "config_v1.2.json", {"version": "1.2", "labels": labels})
    for folder, indices in {"training": range(count - 1), "validation": [count - 1]}.items():
        for index in indices:
            write_image(root / f"{folder}/images/a{index}.jpg")
            palette = [label["color"] for label in labels]
            write_mask(root / f"{folder}/v1.2/labels/a{index}.png", truth_of(index), palette)


def write_yolo(root, count):
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n")
    for folder, indices in {"train": range(count - 1), "valid": [count - 1]}.items():
        (root / folder / "labels").mkdir(parents=True)
        for index in indices:
            write_image(root / f"{folder}/images/a{index}.jpg")
            lines = [
                " ".join(map(str, [value, *(points / (WIDTH, HEIGHT)).ravel()]))
                for value, (_, points) in enumerate(shapes_of(index))
            ]
            (root / folder / f"labels/a{index}.txt").write_text("\n".join(lines))


def write_masks(root, count):
    for index in range(count):
        write_image(root / f"a{index}.jpg")
        write_mask(root / f"a{index}_mask.png", truth_of(index))


EXPORTS = {
    "coco": write_coco,
    "cvat": write_cvat,
    "label_studio": write_label_studio,
    "labelme": write_labelme,
    "mapillary": write_mapillary,
    "masks": write_masks,
    "roboflow": write_roboflow,
    "supervisely": write_supervisely,
    "voc": write_voc,
    "yolo": write_yolo,
}


def labels_of(folder: Path) -> dict[str, np.ndarray]:
    """The label maps of a ``folder`` by their names."""
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(folder.glob("labels/*/**/*.png"))}
