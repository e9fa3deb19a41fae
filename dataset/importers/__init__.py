"""Labels as other tools write them: an importer reads one tool's export, ``convert`` writes it as a ``folder``."""

from segdistill.dataset.folder import CLASSES_FILE
from segdistill.dataset.importers.base import Importer, Source
from segdistill.dataset.importers.coco import COCO
from segdistill.dataset.importers.color_masks import COLOR_MASKS
from segdistill.dataset.importers.cvat import CVAT
from segdistill.dataset.importers.label_studio import LABEL_STUDIO
from segdistill.dataset.importers.labelme import LABELME
from segdistill.dataset.importers.mapillary import MAPILLARY
from segdistill.dataset.importers.masks import MASKS
from segdistill.dataset.importers.roboflow import ROBOFLOW
from segdistill.dataset.importers.supervisely import SUPERVISELY
from segdistill.dataset.importers.yolo import YOLO

IMPORTERS: dict[str, Importer] = {
    importer.name: importer
    for importer in (
        COCO,
        COLOR_MASKS,
        CVAT,
        LABEL_STUDIO,
        LABELME,
        MAPILLARY,
        ROBOFLOW,
        SUPERVISELY,
        YOLO,
        MASKS,  # asked only if no tool is recognised
    )
}


def recognise(source: Source) -> Importer:
    """The one importer whose tool wrote the export.

    Raises:
        ValueError: none or several; says what was seen. It is a ``folder`` already.
    """
    # Label Studio's YOLO export has classes.txt and images/, too, but no splits.
    if all((source.root / name).exists() for name in (CLASSES_FILE, "images/train", "labels/train")):
        raise ValueError(f"{source.root} is a folder with {CLASSES_FILE} already: train with it as it is")
    seen = {name: importer.recognise(source) for name, importer in IMPORTERS.items() if importer is not MASKS}
    claims = {name: what for name, what in seen.items() if what}
    if len(claims) > 1:
        what = "; ".join(f"{name} ({saw})" for name, saw in claims.items())
        raise ValueError(f"{source.root} could be from several tools: {what}. --format NAME says which")
    if claims:
        return IMPORTERS[next(iter(claims))]
    if MASKS.recognise(source):
        return MASKS
    raise ValueError(
        f"{source.root} is the export of no tool that is known: it holds {contents(source)}. Known: "
        f"{', '.join(importer.title for importer in IMPORTERS.values())}"
    )


def contents(source: Source) -> str:
    """What files there are, by suffix, and the keys of the first JSON."""
    counts = {}
    for file in source.files:
        counts[file.suffix.lower() or file.name] = counts.get(file.suffix.lower() or file.name, 0) + 1
    kinds = [f"{count} {suffix}" for suffix, count in sorted(counts.items(), key=lambda item: -item[1])[:6]]
    for file, document in list(source.documents.items())[:1]:
        what = f"the keys {sorted(document)[:6]}" if isinstance(document, dict) else f"a {type(document).__name__}"
        kinds.append(f"{file.name} with {what}")
    return ", ".join([*kinds, *source.faults[:1]]) or "no file"
