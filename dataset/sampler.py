"""The order of training samples as arithmetic: nothing to save, nothing to restore."""

from collections.abc import Iterator

import torch

from segdistill.dataset.base import generator_of


class TrainSampler(torch.utils.data.Sampler):
    """Batches of (epoch, index) from ``start_step`` on, the part of each global batch that is this process's.

    Epochs follow each other without a gap; the order within an epoch is a function of (seed, epoch). Position i of
    the stream therefore holds the same sample whatever the number of processes or the step at which a run resumed.

    Args:
        length: samples in the data set.
        batch_size: of the global batch; divisible by ``world_size``.
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
    ):
        if batch_size % world_size:
            raise ValueError(f"the global batch of {batch_size} does not divide by {world_size} processes")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.steps = range(start_step, num_steps)
        self.share = batch_size // world_size
        self.offset = rank * self.share

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, []
        for step in self.steps:
            batch = []
            for position in range(self.share):
                wanted, place = divmod(step * self.batch_size + self.offset + position, self.length)
                if wanted != epoch:
                    epoch = wanted
                    order = torch.randperm(self.length, generator=generator_of("order", self.seed, epoch)).tolist()
                batch.append((epoch, order[place]))
            yield batch
