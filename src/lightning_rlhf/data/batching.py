"""Which rows share a step: as many as fit a budget of tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from datasets import Dataset

OPEN = 16  # batches filled side by side


def fill(costs: Sequence[int], max_tokens: int, seed: int) -> list[list[int]]:
    """Partition rows into batches that a budget holds and nearly fills, drawn at random.

    Rows come in random order, and each goes into the fullest of a few open batches that has room:
    best fit. Rows of like length are *not* brought together. Packed rows have no padding that this
    would save, and in a batch of long rows, of which there are few, each would weigh more.

    Args:
        costs: tokens of each row, none above the budget.
        max_tokens: the budget.
        seed: of the partition.
    """
    order = list(range(len(costs)))
    random.Random(seed).shuffle(order)
    done: list[list[int]] = []
    batches: list[tuple[int, list[int]]] = []  # room left, rows
    for row in order:
        fitting = [b for b, (room, _) in enumerate(batches) if costs[row] <= room]
        if fitting:
            best = min(fitting, key=lambda b: batches[b][0])
        else:
            if len(batches) == OPEN:
                fullest = min(range(OPEN), key=lambda b: batches[b][0])
                done.append(batches.pop(fullest)[1])
            best = len(batches)
            batches.append((max_tokens, []))
        room, rows = batches[best]
        rows.append(row)
        batches[best] = (room - costs[row], rows)
    return done + [rows for _, rows in batches]


def fill_in_order(costs: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Partition rows into batches of neighbours: what is written comes out in the order it was."""
    batches: list[list[int]] = []
    room = 0
    for row, cost in enumerate(costs):
        if cost > room or not batches:
            batches.append([])
            room = max_tokens
        batches[-1].append(row)
        room -= cost
    return batches


class Batches:
    """A partition of rows as a data set: its items are lists of rows.

    So whatever draws from it, in any order and in any process, draws whole batches.
    """

    def __init__(self, rows: Dataset, partition: list[list[int]]):
        self.rows = rows
        self.partition = partition

    def __len__(self) -> int:
        return len(self.partition)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        columns = self.rows[self.partition[index]]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
