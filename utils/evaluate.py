"""Evaluation: the scores of a predictor over a data set."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from tqdm import tqdm

from segdistill.dataset import Normalization, SegmentationDataset
from segdistill.dataset.base import Sample
from segdistill.utils.distributed import collective_device, rank, world_size
from segdistill.utils.loader import Loader
from segdistill.utils.predict import Predictor
from segdistill.utils.tasks import Scores, task_of


def evaluate(
    predictor: Predictor,
    dataset: SegmentationDataset,
    normalization: Normalization,
    indices: Iterable[int] | None = None,
    num_workers: int = 0,
    description: str | None = None,
    batch_size: int = 1,
    protocol: Mapping | None = None,
    device: torch.device | str = "cpu",
) -> Scores:
    """The scores over ``dataset`` (or its ``indices``) at the size of the labels; a confusion matrix for segmentation.

    Several processes share the images, each counted exactly once. Of ``batch_size`` images those of one size form a
    batch. ``description`` is the name of a progress bar. ``protocol`` is that of eval.py, for tasks that use it.
    ``device`` is where images are normalised: the predictor's.

    Raises:
        ValueError: no pixel of the images is labelled, so there is nothing to score.
    """
    everyone = list(indices if indices is not None else range(len(dataset)))
    own = everyone[rank() :: world_size()]
    on_gpu = torch.device(device).type == "cuda"
    options = {"num_workers": num_workers, "collate_fn": by_size, "pin_memory": on_gpu}
    loader = Loader(dataset, batch_size=batch_size, sampler=own, **options)
    task = task_of(dataset)
    scores = task.scores(dataset, protocol)
    hidden = True if description is None or rank() > 0 else None
    with tqdm(total=len(own), desc=description, unit="image", disable=hidden, leave=False) as progress:
        for batches in loader:
            for images, labels in batches:
                maps = predictor.coarse(normalization(images.to(device, non_blocking=True)))
                scores.update(task.read(maps, labels.shape[1:]), labels)
                progress.update(len(images))
    scores.reduce(collective_device())
    if not scores.num_labelled():
        raise ValueError(
            f"no pixel of {len(everyone)} images of {dataset.root} ({dataset.split}) has a label, "
            "so there is nothing to score: name a labelled split"
        )
    return scores


def by_size(samples: Sequence[Sample]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images (N, 3, H, W) and labels (N, H, W) of each size among the samples."""
    groups: dict[torch.Size, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.label.shape, []).append(sample)
    return [
        (torch.stack([sample.image for sample in group]), torch.stack([sample.label for sample in group]))
        for group in groups.values()
    ]
