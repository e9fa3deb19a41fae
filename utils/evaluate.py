"""Evaluation: one confusion matrix over a data set."""

from collections.abc import Iterable

from tqdm import tqdm

from segdistill.dataset import Normalization, SegmentationDataset
from segdistill.utils.distributed import collective_device, rank, world_size
from segdistill.utils.loader import Loader
from segdistill.utils.metrics import ConfusionMatrix
from segdistill.utils.predict import Predictor, class_ids


def evaluate(
    predictor: Predictor,
    dataset: SegmentationDataset,
    normalization: Normalization,
    indices: Iterable[int] | None = None,
    num_workers: int = 0,
    description: str | None = None,
) -> ConfusionMatrix:
    """The confusion matrix over ``dataset`` (or its ``indices``), image by image, whatever their sizes.

    Several processes share the images, each counted exactly once. ``description`` shows a progress bar under that name.

    Raises:
        ValueError: no pixel of the images is labelled, so there is nothing to score.
    """
    everyone = list(indices if indices is not None else range(len(dataset)))
    loader = Loader(dataset, batch_size=1, sampler=everyone[rank() :: world_size()], num_workers=num_workers)
    confusion = ConfusionMatrix(len(dataset.CLASSES))
    hidden = True if description is None or rank() > 0 else None
    for sample in tqdm(loader, desc=description, unit="image", disable=hidden, leave=False):
        confusion.update(class_ids(predictor(normalization(sample.image))), sample.label)
    confusion.reduce(collective_device())
    if confusion.matrix[:-1].sum() == 0:
        raise ValueError(
            f"no pixel of {len(everyone)} images of {dataset.root} ({dataset.split}) has a label, "
            "so there is nothing to score: name a labelled split"
        )
    return confusion
