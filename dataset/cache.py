"""Decoded images and labels in one file, mapped into memory: a crop is read without decoding anything."""

import hashlib
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from segdistill.dataset.base import Sample, SegmentationDataset
from segdistill.dataset.contents import Contents
from segdistill.libs.files import replacing, sync_folder, unfinished_beside
from segdistill.libs.locks import lock

VERSION = 3  # increase it when the format changes
PIXELS, CARD = "pixels.bin", "samples.json"


class Place(NamedTuple):
    """Position of an item: its first byte in the file and its size. Its image (H, W, 3) comes first, then its label,
    uint8, or float32 if ``values``.

    sum: ``checksum``.
    """

    start: int
    height: int
    width: int
    name: str
    sum: int
    values: bool

    @property
    def end(self) -> int:
        return self.start + (7 if self.values else 4) * self.height * self.width


class DecodedCache:
    """The samples of a split, memory-mapped from the folder that ``open_cache`` made.

    Raises:
        ValueError: the folder is damaged, or an item is when it is first read.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.places = [Place(*place) for place in json.loads((folder / CARD).read_text())]
            # Private pages: writing to a sample changes a copy, never the file.
            self.bytes = np.memmap(folder / PIXELS, np.uint8, mode="c")
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"--cache-dir: {folder} is damaged ({error}): delete that folder") from error
        self.verified = set()

    def __reduce__(self):
        return DecodedCache, (self.folder,)  # another process maps the file itself; the bytes are not pickled

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        place = self.places[index]
        start, height, width, name, *_ = place
        middle, end = start + 3 * height * width, place.end
        if index not in self.verified:  # once a process: the sum takes as long as reading the item
            if checksum(self.bytes[start:end], place) != place.sum:
                raise ValueError(f"--cache-dir: {self.folder} is damaged at {name}: delete that folder")
            self.verified.add(index)
        image = torch.from_numpy(self.bytes[start:middle]).view(height, width, 3).permute(2, 0, 1)
        label = self.bytes[middle:end]
        if place.values:
            label = label.copy().view(np.float32)  # it may begin at any byte
        label = torch.from_numpy(label).view(height, width)
        return Sample(image, label, name, torch.tensor([0, index]))


def checksum(content: np.ndarray, place: Place) -> int:
    """CRC-32 of an item's bytes, size, name and kind of label."""
    return zlib.crc32(content, zlib.crc32(repr((*place[1:4], place.values)).encode()))


def open_cache(dataset: SegmentationDataset, cache_dir: str | Path) -> DecodedCache:
    """Open the decoded samples of a split; decode them if ``cache_dir`` has none for these contents and classes.

    One process builds while others wait for it; where locks do not reach, each builds and the first one counts. An
    incomplete cache is never opened, and is deleted by the next call on its machine.

    Raises:
        OSError: no room for it, or the folder cannot be written; says how much it needs.
        ValueError, FileNotFoundError: a file of the data set is bad.
    """
    cache_dir = Path(cache_dir)
    cache_dir.mkdir(parents=True, exist_ok=True)
    prefix = f"{type(dataset).__name__}-{dataset.split}"
    with (cache_dir / f".{prefix}.lock").open("w") as file:
        lock(file)
        contents = Contents(cache_dir / f".{prefix}.contents.json")
        meaning = (VERSION, dataset.task, dataset.CLASSES, sorted(dataset.ID_TO_TRAIN_ID.items()))
        meaning = repr((*meaning, dataset.DEPTH_RANGE, dataset.DEPTH_STORAGE))
        digest = hashlib.sha256(f"{meaning} {contents.digest(dataset)}".encode()).hexdigest()[:16]
        contents.save()
        folder = cache_dir / f"{prefix}-{digest}"
        if not folder.is_dir():
            unfinished = unfinished_beside(cache_dir / prefix)
            unfinished.mkdir()
            try:
                build(dataset, unfinished)
                try:
                    unfinished.rename(folder)
                except OSError:
                    if not folder.is_dir():  # else another machine was faster
                        raise
                sync_folder(cache_dir)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return DecodedCache(folder)


def build(dataset: SegmentationDataset, folder: Path) -> None:
    places, end = [], 0
    try:
        with (folder / PIXELS).open("wb") as file:
            for index in tqdm(range(len(dataset)), desc=f"decoding {dataset.split}", unit="image", disable=None):
                sample = dataset.read(index)
                label = sample.label.flatten().view(torch.uint8)
                pixels = np.concatenate([sample.image.permute(1, 2, 0).flatten(), label])
                place = Place(end, *sample.label.shape, sample.name, 0, sample.label.is_floating_point())
                places.append(place._replace(sum=checksum(pixels, place)))
                file.write(pixels)
                end += pixels.size
            file.flush()
            os.fsync(file.fileno())
        with replacing(folder / CARD, "w") as file:
            json.dump(places, file)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        needed = end * len(dataset) / max(len(places), 1)
        raise OSError(
            f"--cache-dir: {folder.parent} could not take {dataset.split} ({error.strerror}), which is about "
            f"{needed / 2**30:.1f} GiB: make room or name another folder"
        ) from error
