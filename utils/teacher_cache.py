"""Caches on disk a teacher's outputs for the first K augmentations (views) of each image."""

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from segdistill.libs.locks import lock
from segdistill.network import SegmentationOutput
from segdistill.utils.batch import Batch
from segdistill.utils.files import write_json
from segdistill.utils.teacher import Teacher

logger = logging.getLogger(__name__)

TOLERANCE = 5e-3  # of the greatest value, between a stored map and one computed now: float16 and another batch


class MapFiles(NamedTuple):
    """The files of one feature of all views of all samples.

    maps: (samples * views, C, h, w) float16. sums: (samples * views,) uint32, the ``checksum`` of each map, 0 where
    there is none yet; a map that was half written at a kill, or damaged since, does not have its sum.
    """

    maps: np.ndarray
    sums: np.ndarray


class TeacherCache:
    """Called like a teacher; reads outputs that ``folder`` holds, and runs the teacher for the others.

    Outputs have float16 precision, the first time too, so that a run does not depend on what the folder held. Several
    processes and runs may fill the same folder. In every run the teacher is run on the first batch, and the stored
    outputs are compared with it.

    Args:
        folder: holds a folder for every key.
        teacher: run in its own precision.
        key: all other things that the outputs depend on, as plain data: teacher, images, augmentation.
        num_samples, views: samples of the training set, and how many views each has.

    Raises:
        ValueError: the stored outputs are not this teacher's, or float16 cannot hold them.
        OSError: the disk has no room; says how much is needed.
    """

    def __init__(self, folder: Path, teacher: Teacher, key: Mapping, num_samples: int, views: int):
        digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
        self.folder = folder / digest[:16]
        self.teacher, self.length, self.views = teacher, num_samples * views, views
        self.files: dict[str, MapFiles] = {}
        self.key = dict(key)

    def __call__(self, batch: Batch, features: Iterable[str]) -> SegmentationOutput:
        """The named features of a batch, float32 on its device."""
        features = sorted(features)
        view, index = batch.keys.T.numpy()
        places = index * self.views + view
        stored = {name: self.read(name, places) for name in features if name in self.files}
        if len(stored) < len(features) or not all(known.all() for _, known in stored.values()):
            output = self.teacher(batch, features).features
            for name in features:
                if name not in self.files:
                    self.files[name] = self.open(name, output[name].shape[1:])
                self.write(name, places, output[name])
                stored[name] = self.read(name, places)
                self.verify(name, stored[name][0], output[name])
        maps = {
            name: torch.from_numpy(maps).to(batch.images.device, non_blocking=True).float()
            for name, (maps, _) in stored.items()
        }
        return SegmentationOutput(maps.get("logits"), maps)

    def read(self, name: str, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The maps (N, C, h, w) float16 at these places, and which of them are stored and undamaged, (N,) bool."""
        files = self.files[name]
        maps = files.maps[places]  # a copy, so that the checked bytes are the used ones
        return maps, np.array([checksum(*one) for one in zip(maps, places, strict=True)]) == files.sums[places]

    def write(self, name: str, places: np.ndarray, maps: Tensor) -> None:
        """Store those of the maps (N, C, h, w) that are not stored yet; stored ones are not replaced."""
        maps = maps.detach().half().cpu().contiguous().numpy()
        if not np.isfinite(maps).all():
            raise ValueError(f"the teacher's {name} does not fit into float16: train without --teacher-cache")
        files = self.files[name]
        for place, one, known in zip(places, maps, self.read(name, places)[1], strict=True):
            if not known:
                files.maps[place] = one
                files.sums[place] = checksum(one, place)

    def verify(self, name: str, stored: np.ndarray, maps: Tensor) -> None:
        """Compare stored maps with the teacher's."""
        expected = maps.float().cpu()
        worst = (torch.from_numpy(stored).float() - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
        if worst > TOLERANCE:
            raise ValueError(
                f"{self.folder}: the stored {name} differs from the teacher's by {worst:.2%} of its greatest value: "
                "the images or the network changed; delete that folder"
            )

    def open(self, name: str, shape: tuple[int, int, int]) -> MapFiles:
        """The files of a feature whose maps have this shape (C, h, w), reserved on disk if they are new.

        Reserved, because a map that outgrew a full disk would end the process without a message.
        """
        stem = quote(name, safe="")  # of an ONNX file's inner names some are paths
        maps, sums = (self.folder / f"{stem}.{suffix}" for suffix in ("maps", "sums"))
        sizes = {maps: 2 * self.length * int(np.prod(shape)), sums: 4 * self.length}
        size = sum(sizes.values())
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            lock(file)
            if not sums.exists():  # made last
                free = shutil.disk_usage(self.folder).free
                logger.info("teacher cache %s: %s %s, %d views in %s", self.folder, name, shape, self.length, gib(size))
                if size > free:
                    raise OSError(
                        f"{self.folder}: {name} of {self.length} views needs {gib(size)}, the disk has {gib(free)}: "
                        "lower --views, raise --teacher-stride or name another --teacher-cache"
                    )
                write_json(self.folder / "key.json", self.key)
                for path, length in sizes.items():
                    path.touch()
                    with path.open("r+b") as file:  # keeps what another machine wrote, where locks do not reach it
                        os.posix_fallocate(file.fileno(), 0, length)
        for path, length in sizes.items():
            if not path.is_file() or path.stat().st_size != length:
                raise ValueError(f"{path} should have {length} bytes for maps of {tuple(shape)}: delete {self.folder}")
        return MapFiles(
            np.memmap(maps, np.float16, "r+", shape=(self.length, *shape)),
            np.memmap(sums, np.uint32, "r+", shape=(self.length,)),
        )


def checksum(array: np.ndarray, place: int) -> int:
    """CRC-32 of a map and of its index, never 0."""
    return zlib.crc32(array, int(place)) or 1


def gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
