"""Mapillary Vistas: config*.json with the labels, and PNG masks whose values are places in its list."""

from functools import partial
from pathlib import Path

from segdistill.dataset.importers.base import Canvas, Export, Importer, Picture, Problems, Source, read_values

MASKS = "labels", "instances", "panoptic"  # folders


def recognise(source: Source) -> str:
    configs = configs_of(source)
    return f"{configs[0].name} with labels" if configs else ""


def configs_of(source: Source) -> list[Path]:
    """config*.json with a list of labels that have a "readable" name, the newest version first."""
    paths = [path for path in source.having(".json") if path.name.startswith("config")]
    return sorted((path for path in paths if is_config(source.document(path))), reverse=True)


def is_config(document: object) -> bool:
    labels = document.get("labels") if isinstance(document, dict) else None
    return isinstance(labels, list) and all(
        isinstance(label, dict) and isinstance(label.get("readable"), str) for label in labels
    )


def read(source: Source, problems: Problems) -> Export:
    """The newest version that has masks; classes that the benchmark does not score are void."""
    configs = configs_of(source)
    if not configs:
        raise ValueError(f"{source.root} holds no config*.json with labels, as a Vistas export does")
    for config in configs:
        version = config.stem.removeprefix("config").lstrip("_")
        masks = masks_of(source, version)
        if masks:
            break
    else:
        raise ValueError(f"no <split>/{version or '<version>'}/labels/X.png for {configs[0]}")
    for other in configs:
        if other != config:
            problems.add(
                f"labels of {other.name} not read, {config.name} has them too: move it away to read others", other
            )
    labels = source.document(config)["labels"]
    scored = [label.get("evaluate", True) for label in labels]
    names = {value: label["readable"] if scored[value] else None for value, label in enumerate(labels)}
    colors = {label["readable"]: tuple(label["color"]) for label, wanted in zip(labels, scored, strict=True) if wanted}
    pictures = []
    for mask in masks:
        split = source.split_of(mask)
        image = source.find_image(f"images/{mask.stem}", mask, split, without=MASKS)
        if image is None:
            problems.add("masks without an image left out", mask)
            continue
        pictures.append(Picture(image, split, partial(draw, mask, names)))
    return Export(colors, pictures, whole=True, known=source.images_in(*MASKS))


def masks_of(source: Source, version: str) -> list[Path]:
    folders = [path for path in source.images if path.parent.name == "labels"]
    return [path for path in folders if path.parent.parent.name == version] or (folders if not version else [])


def draw(mask: Path, names: dict[int, str | None], canvas: Canvas) -> None:
    canvas.values(read_values(mask), names)


MAPILLARY = Importer("mapillary", "Mapillary Vistas", recognise, read)
