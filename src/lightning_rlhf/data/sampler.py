"""Order of rows: random, the same after a resume, disjoint between processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler


class ResumableSampler(DistributedSampler):
    """Order by seed and epoch alone, with iterators that can save their position.

    torchdata's random sampler draws a permutation for every iterator. Lightning makes more
    iterators in a resumed run than in an unbroken one, so the next epoch's order would differ. This
    is a ``DistributedSampler``, which Lightning leaves alone in every strategy.

    Args:
        dataset: anything with a length.
        processes: number of processes.
        rank: of this process.
        shuffle: draw a random order.
        seed: of the order.
        run: length of the runs of neighboring rows that stay together and in order.
    """

    def __init__(
        self,
        dataset: Any,
        processes: int = 1,
        rank: int = 0,
        *,
        shuffle: bool = True,
        seed: int = 0,
        run: int = 1,
    ):
        super().__init__(dataset, processes, rank, shuffle, seed)
        self.run = run
        self.num_samples = run * -(-(len(dataset) // run) // processes)
        self.total_size = self.num_samples * processes

    def __iter__(self) -> Iterator[int]:
        return _Position(self)

    def order(self, epoch: int) -> Tensor:
        """Order this process's rows of an epoch: eight bytes per row.

        Every process takes equally many, so some rows come twice where they do not divide evenly.
        """
        size = len(self.dataset) // self.run  # type: ignore[arg-type]
        rows = torch.arange(size)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + epoch)
            rows = torch.randperm(size, generator=generator)
        shared = torch.arange(self.rank, self.total_size // self.run, self.num_replicas)
        firsts = rows[shared % size] * self.run
        return (firsts[:, None] + torch.arange(self.run)).flatten()


class _Position(Iterator[int]):
    """A position in one epoch's order; ``StatefulDataLoader`` saves and loads it."""

    def __init__(self, sampler: ResumableSampler):
        self.sampler = sampler
        self.load_state_dict(
            {"epoch": sampler.epoch, "yielded": 0, "processes": sampler.num_replicas}
        )

    def __next__(self) -> int:
        if self.yielded == len(self.rows):
            self.sampler.set_epoch(self.epoch + 1)  # as Lightning would, for loops that do not
            raise StopIteration
        self.yielded += 1
        return int(self.rows[self.yielded - 1])

    def state_dict(self) -> dict[str, Any]:
        processes = self.sampler.num_replicas
        return {"epoch": self.epoch, "yielded": self.yielded, "processes": processes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch: int = state["epoch"]
        self.yielded: int = state["yielded"]
        self.rows = self.sampler.order(self.epoch)
        before, now = state.get("processes", 1), self.sampler.num_replicas
        if before != now:  # processes take rows in turn, so those taken are the first of the order
            self.yielded = min(self.yielded * before // now, len(self.rows))
        if 0 < len(self.rows) == self.yielded:
            # Lightning counts this epoch as done and asks for the next one's rows
            self.load_state_dict({"epoch": self.epoch + 1, "yielded": 0, "processes": now})
