"""The data of a run: training and validation split, decoded once, and the batches of the steps."""

import copy
from collections.abc import Sequence

import torch

from segdistill.dataset import DATASETS, SegmentationDataset, build_dataset
from segdistill.dataset.augment import AugmentedCrop, parse_augmentations
from segdistill.dataset.cache import open_cache
from segdistill.dataset.check import require_labels
from segdistill.dataset.sampler import TrainSampler
from segdistill.dataset.transforms import RandomCrop
from segdistill.utils.distributed import rank, world_size
from segdistill.utils.loader import Loader
from segdistill.utils.options import DataOptions, Options
from segdistill.utils.tasks import task_named, task_of
from segdistill.utils.teacher import Teacher


def build_train_sets(each: Sequence[Options]) -> dict[DataOptions, SegmentationDataset]:
    """The augmented training split for each choice of labels; decoded images are shared."""
    first = each[0]
    data, needs_labels = first.data, first.objective.task_weight > 0
    split = build_dataset(
        data.dataset,
        data.data_dir,
        "train",
        transform=build_transform(data, any(one.teacher.teacher_view for one in each)),
        seed=first.optimisation.seed,
        data_list=data.data_list,
        unlabelled_list=data.unlabelled_list,
        labelled=needs_labels,
        task=data.task,
    )
    if data.max_class_share and task_of(split).per_class is None:
        raise ValueError(f"--max-class-share has no effect with --task {split.task}, whose labels are no classes")
    keep_decoded(split, first)
    train_sets = {}
    for data in dict.fromkeys(one.data for one in each):
        train_sets[data] = train_set = copy.copy(split)
        if not data.unlabelled_list:
            train_set.pairs = split.pairs[: split.num_labelled]
        if data.num_labels:
            train_set.keep_labels(data.num_labels)
        if needs_labels:
            require_labels(train_set)
        if first.teacher.mix and len(to_mix(data, train_set)) == 1:
            raise ValueError("--mix pastes one image without labels into another, and there is a single one")
    return train_sets


def build_transform(data: DataOptions, weak_view: bool) -> RandomCrop:
    """The training augmentation; with ``weak_view`` the teacher's samples lack its photometric part."""
    settings = {"scale_step": data.scale_step, "short_side": data.short_side, "max_class_share": data.max_class_share}
    settings["scale_labels"] = task_named({"dataset": data.dataset, "task": data.task}).scale_labels
    crop = data.input_size, data.scale_range or (1.0, 1.0), data.random_mirror
    if not data.augment:
        return RandomCrop(*crop, **settings)
    return AugmentedCrop(*crop, **settings, steps=parse_augmentations(data.augment), weak_view=weak_view)


def to_mix(data: DataOptions, train_set: SegmentationDataset) -> range:
    """The indices of the images without labels that batches have."""
    if train_set.TRUTH == "teacher":
        return range(len(train_set))
    return range(train_set.num_labelled, len(train_set)) if data.unlabelled_share else range(0)


def build_val_set(
    options: Options, train_set: SegmentationDataset, teacher: Teacher | None = None
) -> SegmentationDataset:
    """The whole images of the validation split; images without labels are labelled by the teacher."""
    data, split = options.data, DATASETS[options.data.dataset].VALIDATION_SPLIT
    labelled = train_set.TRUTH == "labels"
    val_set = build_dataset(
        data.dataset, data.data_dir, split, data_list=data.val_list, labelled=labelled, task=data.task
    )
    if not labelled:
        task_of(val_set).adopt(val_set, teacher.network, teacher.report)
        val_set.take_labels(teacher.predict(val_set))
    keep_decoded(val_set, options)
    return val_set


def keep_decoded(dataset: SegmentationDataset, options: Options) -> None:
    """Decode the images once, into memory or a file, if --preload or --cache-dir is given and training follows."""
    if options.data.preload and not options.run.check:
        dataset.preload()
    if options.data.cache_dir:
        dataset.memory = open_cache(dataset, options.data.cache_dir)


def build_loader(options: Options, train_set: SegmentationDataset, start: int, device: torch.device) -> Loader:
    """The batches of the steps after ``start``."""
    sampler = TrainSampler(
        train_set.num_labelled,
        options.optimisation.batch_size - options.num_unlabelled,
        options.last_step,
        options.optimisation.seed,
        start,
        rank(),
        world_size(),
        unlabelled=(len(train_set) - train_set.num_labelled, options.num_unlabelled),
        views=options.data.views,
        mixed=to_mix(options.data, train_set) if options.teacher.mix else range(0),
    )
    num_workers = options.data.num_workers
    return Loader(train_set, batch_sampler=sampler, num_workers=num_workers, pin_memory=device.type == "cuda")
