"""The order of rows: random, the same after a resume, disjoint between processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler


class ResumableSampler(DistributedSampler):
    """An order that is a function of seed and epoch alone, and iterators that know their place.

    torchdata's random sampler draws a permutation for every iterator somebody makes, and Lightning
    makes more of them in a resumed run than in an unbroken one: the next epoch's order would
    differ. A ``DistributedSampler``, so that Lightning leaves it alone in every strategy.
    """

    def __init__(
        self,
        dataset: Any,
        processes: int = 1,
        rank: int = 0,
        shuffle: bool = True,
        seed: int = 0,
        run: int = 1,
    ):
        """Rows come in runs of ``run`` neighbours, which stay together and in order."""
        super().__init__(dataset, processes, rank, shuffle, seed)
        self.run = run
        self.num_samples = run * -(-(len(dataset) // run) // processes)
        self.total_size = self.num_samples * processes

    def __iter__(self) -> Iterator[int]:
        return _Place(self)

    def order(self, epoch: int) -> Tensor:
        """This process's rows of an epoch, in their order: eight bytes a row.

        Some rows come twice where they cannot be shared out evenly, as every process takes as many.
        """
        size = len(self.dataset) // self.run  # type: ignore[arg-type]
        rows = torch.arange(size)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + epoch)
            rows = torch.randperm(size, generator=generator)
        shared = torch.arange(self.rank, self.total_size // self.run, self.num_replicas)
        firsts = rows[shared % size] * self.run
        return (firsts[:, None] + torch.arange(self.run)).flatten()


class _Place(Iterator[int]):
    """A place in one epoch's order; ``StatefulDataLoader`` saves and loads it."""

    def __init__(self, sampler: ResumableSampler):
        self.sampler = sampler
        self.load_state_dict({"epoch": sampler.epoch, "yielded": 0})

    def __next__(self) -> int:
        if self.yielded == len(self.rows):
            self.sampler.set_epoch(self.epoch + 1)  # as Lightning would, for loops that do not
            raise StopIteration
        self.yielded += 1
        return int(self.rows[self.yielded - 1])

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "yielded": self.yielded}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch: int = state["epoch"]
        self.yielded: int = state["yielded"]
        self.rows = self.sampler.order(self.epoch)
        if 0 < len(self.rows) == self.yielded:
            # Lightning counts this epoch as done and asks for the next one's rows
            self.load_state_dict({"epoch": self.epoch + 1, "yielded": 0})
