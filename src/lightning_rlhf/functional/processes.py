"""The processes of a run: what each of them holds, brought together."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor


class Processes(NamedTuple):
    """This process among those of a run; every one of them makes the same calls."""

    rank: int = 0
    size: int = 1

    def stack(self, row: Tensor) -> Tensor:
        """Stack a row of each process, all of one shape: (size, ...), without gradient."""
        if self.size == 1:
            return row.detach()[None]
        rows = [torch.empty_like(row) for _ in range(self.size)]
        torch.distributed.all_gather(rows, row.detach().contiguous())
        return torch.stack(rows)

    def gather(self, values: Tensor) -> list[Tensor]:
        """Collect the values of each process, by rank; this one's keep their gradient.

        Args:
            values: (N, ...), where N may differ between processes.
        """
        if self.size == 1:
            return [values]
        lengths = self.stack(torch.tensor(len(values), device=values.device)).tolist()
        padded = values.new_zeros(max(lengths), *values.shape[1:])
        padded[: len(values)] = values.detach()
        parts = [row[:n] for row, n in zip(self.stack(padded), lengths, strict=True)]
        parts[self.rank] = values
        return parts

    def join(self, values: Tensor) -> Tensor:
        """Join the (N, ...) values of all processes, by rank."""
        return torch.cat(self.gather(values)) if self.size > 1 else values

    def total(self, number: float) -> float:
        """Sum a number of each process."""
        return number if self.size == 1 else sum(self.gather_states(number))

    def own(self, joined: Tensor, like: Tensor) -> Tensor:
        """Cut this process's part out of what ``join`` gave for ``like``."""
        if self.size == 1:
            return joined
        lengths = self.stack(torch.tensor(len(like), device=like.device)).tolist()
        return joined.split(lengths)[self.rank]

    def gather_states(self, state: Any) -> list[Any]:
        """Collect the plain state of each process, since only the first one writes files."""
        if self.size == 1:
            return [state]
        states: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(states, state)
        return states
