"""The order of training samples, computed from (seed, step), so that it has no state to save."""

from collections.abc import Iterator

import torch

from segdistill.dataset.base import generator_of


class TrainSampler(torch.utils.data.Sampler):
    """Batch sampler of (epoch, index) from ``start_step`` on; yields this process's part of each global batch.

    Epochs follow each other without a gap; the order within an epoch is a function of (seed, epoch). Position i of
    the stream therefore holds the same sample whatever the number of processes or the step at which a run resumed.

    Args:
        length: labelled samples in the data set, which come first in it.
        batch_size: labelled samples of the global batch; divisible by ``world_size``.
        unlabelled: (samples in the data set after the labelled ones, how many of them each global batch has); they
            have their own random order.
        views: epochs after which the augmented samples repeat; None: never.
        mixed: indices of samples, two or more, that are mixed: each batch ends with a partner of each of them in it,
            another of them in the same epoch, which is a function of (seed, epoch, index).
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        num_steps: int,
        seed: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        unlabelled: tuple[int, int] = (0, 0),
        views: int | None = None,
        mixed: range = range(0),
    ):
        if batch_size % world_size or unlabelled[1] % world_size:
            raise ValueError(
                f"the global batch of {batch_size} labelled and {unlabelled[1]} unlabelled samples does not divide by "
                f"{world_size} processes"
            )
        self.steps = range(start_step, num_steps)
        self.seed, self.views, self.mixed = seed, views, mixed
        self.streams = [Stream("order", seed, length, 0, batch_size, rank, world_size)]
        if unlabelled[1]:
            self.streams.append(
                Stream("unlabelled order", seed, unlabelled[0], length, unlabelled[1], rank, world_size)
            )

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self.steps:
            samples = [sample for stream in self.streams for sample in stream.batch(step)]
            if self.views:
                samples = [(epoch % self.views, index) for epoch, index in samples]
            yield samples + [self.partner(*sample) for sample in samples if sample[1] in self.mixed]

    def partner(self, epoch: int, index: int) -> tuple[int, int]:
        """Another sample of ``mixed``, each as likely."""
        first, length = self.mixed.start, len(self.mixed)
        steps = torch.randint(1, length, (), generator=generator_of("partner", self.seed, epoch, index))
        return epoch, first + (index - first + int(steps)) % length


class Stream:
    """Endless epochs of the indices ``first`` ... ``first + length - 1``, ``batch_size`` a step."""

    def __init__(self, name: str, seed: int, length: int, first: int, batch_size: int, rank: int, world_size: int):
        self.name, self.seed, self.length, self.first, self.batch_size = name, seed, length, first, batch_size
        share = batch_size // world_size
        self.places = range(rank * share, (rank + 1) * share)
        self.epoch, self.order = -1, []

    def batch(self, step: int) -> list[tuple[int, int]]:
        """This process's share of the step."""
        samples = []
        for place in self.places:
            epoch, position = divmod(step * self.batch_size + place, self.length)
            if epoch != self.epoch:
                self.epoch = epoch
                self.order = torch.randperm(self.length, generator=generator_of(self.name, self.seed, epoch)).tolist()
            samples.append((epoch, self.first + self.order[position]))
        return samples
