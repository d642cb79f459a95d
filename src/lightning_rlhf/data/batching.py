"""Which rows share a step: as many as fit a budget of tokens."""

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
    """Partition rows into batches that a budget holds and nearly fills, drawn at random.

    Rows come in random order, and each goes into the fullest of a few open batches that has room:
    best fit. Rows of like length are *not* brought together. Packed rows have no padding that this
    would save, and in a batch of long rows, of which there are few, each would weigh more.

    Args:
        costs: tokens of each row, none above the budget.
        max_tokens: the budget.
        seed: of the partition.
    """
    done: list[Sequence[int]] = []
    rooms: list[int] = []  # left in each open batch, the fullest first
    batches: list[array[int]] = []  # eight bytes a row, where a list would take 36
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
    """Partition rows into batches of neighbours: what is written comes out in the order it was."""
    return [*cut_by_budget(costs, max_tokens)]


def fill_by_number(rows: int, batch_size: int, seed: int) -> list[Sequence[int]]:
    """Partition rows into batches of equal size, drawn at random; what is left over sits out."""
    order = np.random.default_rng(seed).permutation(rows)
    size = min(batch_size, rows)
    return [order[i : i + size].tolist() for i in range(0, rows - size + 1, size)]


class Batches:
    """A partition of rows as a data set: its items are lists of rows.

    So whatever draws from it, in any order and in any process, draws whole batches.
    """

    def __init__(self, rows: Dataset, partition: Sequence[Sequence[int]]):
        self.rows = rows
        self.partition = partition

    def __len__(self) -> int:
        return len(self.partition)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        columns = self.rows[self.partition[index]]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
