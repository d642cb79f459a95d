"""Group rows into batches that fit a budget of tokens."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from lightning_rlhf.batches import cut_by_budget

OPEN = 16  # batches filled side by side


def fill(costs: Sequence[int] | np.ndarray, max_tokens: int, seed: int) -> list[Sequence[int]]:
    """Partition rows into random batches that nearly fill a budget.

    Rows come in random order, and each goes into the fullest open batch that has room (best fit).
    Rows of similar length are *not* grouped. Packed rows have no padding that this would save, and
    a batch of long rows has few of them, so that each would weigh more.

    Args:
        costs: tokens of each row, none above the budget.
        max_tokens: the budget.
        seed: of the partition.
    """
    done: list[Sequence[int]] = []
    rooms: list[int] = []  # tokens left in each open batch, the fullest first
    batches: list[array[int]] = []  # eight bytes per row, where a list would take 36
    for row in np.random.default_rng(seed).permutation(len(costs)):
        cost = int(costs[row])
        best = bisect_left(rooms, cost)
        if best < len(rooms):
            room, rows = rooms.pop(best), batches.pop(best)
        else:
            if len(batches) == OPEN:
                rooms.pop(0)
                done.append(batches.pop(0))
            room, rows = max_tokens, array("q")
        rows.append(row)
        at = bisect_left(rooms, room - cost)
        rooms.insert(at, room - cost)
        batches.insert(at, rows)
    return done + batches


def fill_in_order(costs: Sequence[int] | np.ndarray, max_tokens: int) -> list[Sequence[int]]:
    """Partition rows into batches in their own order, for writing them out."""
    return [*cut_by_budget(costs, max_tokens)]


def fill_by_number(rows: int, batch_size: int, seed: int) -> list[Sequence[int]]:
    """Partition rows into random batches of equal size; the remainder is left out."""
    order = np.random.default_rng(seed).permutation(rows)
    size = min(batch_size, rows)
    return [order[i : i + size].tolist() for i in range(0, rows - size + 1, size)]


class Batches:
    """A data set whose items are the batches of a partition, as lists of rows.

    A sampler, in any order and in any process, thus draws whole batches.
    """

    def __init__(self, rows: Dataset, partition: Sequence[Sequence[int]]):
        self.rows = rows
        self.partition = partition

    def __len__(self) -> int:
        return len(self.partition)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        columns = self.rows[self.partition[index]]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
