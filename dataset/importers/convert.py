"""The export of a labelling tool as a ``folder``: images, ids, classes.txt, and a picture to look at."""

import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from segdistill.dataset.base import evenly_spaced
from segdistill.dataset.files import read_image, read_size
from segdistill.dataset.folder import CLASSES_FILE, VOID_NAMES, write_classes
from segdistill.dataset.ids import IGNORE_INDEX, bit_color
from segdistill.dataset.importers import IMPORTERS, recognise
from segdistill.dataset.importers.base import (
    BACKGROUND,
    MALFORMED,
    MISSING,
    SPLITS,
    STRUCTURE,
    Canvas,
    Color,
    Export,
    Importer,
    Picture,
    Problems,
    Source,
    describe_error,
    split_named,
)
from segdistill.dataset.prepare import unpack
from segdistill.libs.files import link, new_folder

BACKGROUND_NAMES = (BACKGROUND, "_background_", "__background__")  # in any case
OVERVIEW, NUM_SHOWN, COLUMNS, WIDTH = "overview.png", 6, 3, 320


class Classes(NamedTuple):
    """The classes of the result with their colours; ids: of the export's names; unlabelled: the id of bare pixels."""

    colors: dict[str, Color]
    ids: dict[str, int]
    unlabelled: int


class Conversion(NamedTuple):
    """What was converted: images of each split, pixels of each class (the last is void), and what was left out."""

    title: str
    num_images: dict[str, int]
    num_pixels: dict[str, int]
    problems: Problems


def convert(
    path: str | Path,
    folder: str | Path,
    *,
    format: str | None = None,
    val_share: float = 0.1,
    classes: Sequence[str] = (),
    unlabelled: str = BACKGROUND,
    images: str | Path | None = None,
) -> Conversion:
    """Write what a labelling tool exported as a ``folder``.

    Args:
        path: the export: a folder, a zip archive or one annotation file.
        folder: a new or empty folder. It appears, whole, when everything is written.
        format: one of IMPORTERS; None recognises it.
        val_share: of the training images that validate, evenly spaced, if the export has no validation split.
        classes: those to keep, in this order; () is all.
        unlabelled: what pixels without a label are: "background", the class of id 0, or "void".
        images: where the images are, if not in the export.

    Raises:
        ValueError: it is of no tool that is known, or of several; nothing in it can be converted; says what was seen.
        FileNotFoundError: no export.
        OSError: the result cannot be written.
    """
    path, folder = Path(path), Path(folder)
    if not path.exists():
        raise FileNotFoundError(f"no {path} to convert")
    if not 0 < val_share < 1:
        raise ValueError(f"the share of images that validate is more than 0 and less than 1, not {val_share}")
    if images and not Path(images).is_dir():
        raise FileNotFoundError(f"no folder {images} of images")
    with new_folder(folder) as target:
        if path.is_file() and zipfile.is_zipfile(path):
            unpack(path, target / "archive")
            path = target / "archive"
        source = Source(path, Path(images) if images else None)
        importer, problems = IMPORTERS[format] if format else recognise(source), Problems(source.root)
        export = read_export(importer, source, problems)
        pictures = usable(export.pictures, problems)
        if not pictures:
            remedy = " (--images FOLDER: where they are)" if MISSING in problems.found and not images else ""
            raise ValueError(f"{path} holds no labelled image, read as {importer.title}. {problems}{remedy}")
        kept = choose_classes(export, classes, unlabelled)
        labels, num_pixels = draw(pictures, kept, target / "drawn", problems)
        present = [name for name, count in zip(kept.colors, num_pixels, strict=False) if count]
        if len(present) < 2:
            only = ", ".join(present) or "no class"
            raise ValueError(f"{path} holds pixels of {only} only; two classes are the least. {problems}")
        splits = divide([picture for picture in pictures if picture.image in labels], val_share)
        if not splits.keys() >= {"train", "val"}:
            raise ValueError(f"{path} holds {len(labels)} images with labels; two are the least. {problems}")
        pairs = arrange(splits, labels, source, target)
        write_classes(kept.colors, target / CLASSES_FILE)
        draw_overview([pairs[place] for place in evenly_spaced(NUM_SHOWN, len(pairs))], kept, target / OVERVIEW)
        for folder_name in ("archive", "drawn"):
            shutil.rmtree(target / folder_name, ignore_errors=True)
        num_images = {split: len(splits[split]) for split in SPLITS if split in splits}
    names = [*kept.colors, "void"]
    return Conversion(importer.title, num_images, dict(zip(names, num_pixels, strict=True)), problems)


def read_export(importer: Importer, source: Source, problems: Problems) -> Export:
    """What the importer reads; images that it has no use for are named. Raises ValueError where it reads nothing."""
    try:
        export = importer.read(source, problems)
    except MALFORMED as error:
        if str(source.root) in str(error):  # it names the file
            raise
        what = f"{type(error).__name__}: {describe_error(error)}"
        raise ValueError(f"{source.root} is not as {importer.title} writes it ({what})") from error
    used = {*export.known, *(picture.image for picture in export.pictures)}
    for image in (*source.images, *source.more_images):
        if image not in used:
            problems.add("images without labels left out", image)
    return export


def choose_classes(export: Export, wanted: Sequence[str], unlabelled: str) -> Classes:
    """Ids in the export's order, or the wanted one; background is 0, or void.

    Raises:
        ValueError: a wanted class that there is not, fewer than two classes or more than 255.
    """
    raw = {name: clean(name) for name in export.classes}
    colors = {}
    for name, color in export.classes.items():
        if name.lower() not in VOID_NAMES:
            colors.setdefault(raw[name], color)
    background = next((name for name in colors if name.lower() in BACKGROUND_NAMES), None)
    background_color = colors.pop(background, None)
    wanted = [name for name in wanted if name.lower() not in BACKGROUND_NAMES]
    if missing := [name for name in wanted if name not in colors]:
        raise ValueError(f"no class {', '.join(missing)} in the export; its classes: {', '.join(colors)}")
    names = list(wanted or colors)
    has_background = unlabelled == BACKGROUND and bool(background or wanted or not export.whole)
    colors = distinct(
        ({BACKGROUND: background_color or (0, 0, 0)} if has_background else {}) | {name: colors[name] for name in names}
    )
    if not 2 <= len(colors) <= IGNORE_INDEX:
        text = ", ".join(colors) if len(colors) < 2 else "more than an 8-bit id can tell apart"
        raise ValueError(
            f"{len(colors)} classes ({text}); a network needs 2 to {IGNORE_INDEX}. With --unlabelled background what "
            "is not labelled is a class too; --classes keeps some"
        )
    places = {name: place for place, name in enumerate(colors)}
    ids = {name: places[cleaned] for name, cleaned in raw.items() if cleaned in places}
    bare = 0 if has_background else IGNORE_INDEX
    ids |= {name: bare for name, cleaned in raw.items() if cleaned == background}
    return Classes(colors, ids | {BACKGROUND: bare}, bare)


def clean(name: str) -> str:
    """A name as classes.txt can hold it: one line, no #."""
    return " ".join(name.replace("#", " ").split()) or "unnamed"


def distinct(colors: dict[str, Color | None]) -> dict[str, Color]:
    """The colours, those that are missing, none or taken replaced by others of Pascal VOC's map."""
    found, free = {}, (bit_color(value) for value in range(1, 1 << 24))
    for name, color in colors.items():
        if is_color(color) and color not in found.values():
            found[name] = color
    for name in colors:
        if name not in found:
            found[name] = next(color for color in free if color not in found.values())
    return {name: found[name] for name in colors}


def is_color(color: Color | None) -> bool:
    channels = color or ()
    return len(channels) == 3 and all(type(value) is int and 0 <= value <= 255 for value in channels)


def usable(pictures: Sequence[Picture], problems: Problems) -> list[Picture]:
    """The pictures whose image can be read and is the one that was annotated, in the order of their paths."""
    kept = {}
    for picture in sorted(pictures, key=lambda picture: picture.image):
        try:
            size = read_size(picture.image)
        except (ValueError, FileNotFoundError) as error:
            problems.add(str(error), picture.image)
            continue
        if picture.size and tuple(picture.size) != size:
            reason = "images of another size than was annotated left out"
            problems.add(
                reason, f"{picture.image}, {size[0]}x{size[1]}, annotated at {picture.size[0]}x{picture.size[1]}"
            )
        elif picture.image.resolve() in kept:
            problems.add("annotations of an image that has some already left out", picture.image)
        else:
            kept[picture.image.resolve()] = picture
    return list(kept.values())


def divide(pictures: Sequence[Picture], val_share: float) -> dict[str, list[Picture]]:
    """Pictures by split: the export's where it has a training split, else all are for training.

    Without a validation split, an evenly spaced share of the training pictures becomes one.
    """
    named = any(picture.split == "train" for picture in pictures)
    splits = {}
    for picture in pictures:
        splits.setdefault((named and picture.split) or "train", []).append(picture)
    if "val" not in splits and len(splits.get("train", ())) > 1:
        train = splits["train"]
        count = min(max(round(val_share * len(train)), 1), len(train) - 1)
        chosen = {*evenly_spaced(count, len(train))}
        splits["val"] = [train[place] for place in sorted(chosen)]
        splits["train"] = [picture for place, picture in enumerate(train) if place not in chosen]
    return splits


def draw(
    pictures: Sequence[Picture], classes: Classes, folder: Path, problems: Problems
) -> tuple[dict[Path, Path], list[int]]:
    """Write the label maps to a folder: the one of each image, and the pixels of each class, void last."""
    counts, labels = np.zeros(IGNORE_INDEX + 1, np.int64), {}
    folder.mkdir()
    for picture in tqdm(pictures, desc="converting", unit="image", leave=False, disable=None):
        canvas = Canvas(read_size(picture.image), classes.ids, classes.unlabelled, problems, str(picture.image))
        try:
            picture.draw(canvas)
        except MALFORMED as error:
            problems.add(f"images whose labels cannot be read ({describe_error(error)}) left out", picture.image)
            continue
        if (canvas.labels == IGNORE_INDEX).all():
            problems.add("images without a labelled pixel left out", picture.image)
            continue
        if not canvas.num_shapes:
            problems.add("images without a shape are background throughout", picture.image)
        labels[picture.image] = folder / f"{len(labels)}.png"
        Image.fromarray(canvas.labels).save(labels[picture.image])
        counts += np.bincount(canvas.labels.ravel(), minlength=len(counts))
    return labels, [*counts[: len(classes.colors)].tolist(), int(counts[IGNORE_INDEX])]


def arrange(
    splits: dict[str, list[Picture]], labels: dict[Path, Path], source: Source, target: Path
) -> list[tuple[Path, Path]]:
    """Put images and label maps where a ``folder`` has them; their new paths."""
    pairs = []
    for split in SPLITS:
        names = set()
        for picture in splits.get(split, ()):
            name = free_name(picture.image, source, names)
            image = target / "images" / split / f"{name}{picture.image.suffix}"
            label = target / "labels" / split / f"{name}.png"
            link(picture.image, image)
            label.parent.mkdir(parents=True, exist_ok=True)
            labels[picture.image].rename(label)
            pairs.append((image, label))
    return pairs


def free_name(image: Path, source: Source, taken: set[str]) -> str:
    """The image's path without its suffix and the folders that say only what is in them; another if it is taken."""
    folders = [part for part in source.folders(image) if part.lower() not in STRUCTURE and not split_named(part)]
    name = first = "/".join([*folders, image.stem])
    number = 2
    while name.lower() in taken:
        name, number = f"{first}_{number}", number + 1
    taken.add(name.lower())
    return name


def draw_overview(pairs: Sequence[tuple[Path, Path]], classes: Classes, path: Path) -> None:
    """Some images, their labels laid over them in the classes' colours; void stays as it is."""
    palette = np.zeros((256, 3), np.float32)
    palette[: len(classes.colors)] = list(classes.colors.values())
    tiles = []
    for image, label in pairs:
        try:
            pixels = read_image(image).permute(1, 2, 0).numpy().astype(np.float32)
        except ValueError:  # `check` names it
            continue
        with Image.open(label) as opened:
            ids = np.asarray(opened)
        mixed = np.where((ids == IGNORE_INDEX)[..., None], pixels, (pixels + palette[ids]) / 2)
        tile = Image.fromarray(mixed.astype(np.uint8))
        tiles.append(tile.resize((WIDTH, max(round(WIDTH * tile.height / tile.width), 1))))
    if not tiles:
        return
    height = max(tile.height for tile in tiles)
    sheet = Image.new("RGB", (WIDTH * min(COLUMNS, len(tiles)), height * -(-len(tiles) // COLUMNS)))
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % COLUMNS * WIDTH, place // COLUMNS * height))
    sheet.save(path)


def describe(conversion: Conversion, shown: int) -> Iterator[str]:
    """The lines of a report: images, pixels, and at most ``shown`` reasons why something was left out."""
    images = ", ".join(f"{split} {count}" for split, count in conversion.num_images.items())
    yield f"{conversion.title}: {images} images"
    total = max(sum(conversion.num_pixels.values()), 1)
    for name, count in conversion.num_pixels.items():
        yield f"  {name:20} {count:15,} pixels {100 * count / total:6.2f} %"
    reasons = list(conversion.problems.found.items())
    for reason, (count, first) in reasons[:shown]:
        # An error that names its file needs no second mention.
        yield f"{count} x {reason}" + ("" if first in reason else f"; the first: {first}")
    if len(reasons) > shown:
        yield f"{len(reasons) - shown} more reasons"
