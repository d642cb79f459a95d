"""Batches under a budget of tokens."""

from __future__ import annotations

import random
import statistics

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.data.batching import Batches, fill, fill_in_order

COSTS = st.lists(st.integers(1, 50), max_size=200)


@settings(max_examples=60, deadline=None)
@given(COSTS, st.integers(50, 200), st.integers(0, 3))
def test_a_partition_under_the_budget(costs: list[int], budget: int, seed: int) -> None:
    for batches in (fill(costs, budget, seed), fill_in_order(costs, budget)):
        assert sorted(row for batch in batches for row in batch) == list(range(len(costs)))
        assert all(0 < sum(costs[row] for row in batch) <= budget for batch in batches)
    assert fill(costs, budget, seed) == fill(costs, budget, seed)
    in_order = [row for batch in fill_in_order(costs, budget) for row in batch]
    assert in_order == list(range(len(costs)))


def lognormal(n: int) -> list[int]:
    draw = random.Random(0)
    return [min(2048, max(20, int(draw.lognormvariate(6, 0.7)))) for _ in range(n)]


def test_budgets_are_full_and_no_length_is_favoured() -> None:
    costs = lognormal(8000)
    batches = fill(costs, 4096, seed=0)
    assert sum(costs) / (4096 * len(batches)) > 0.99
    assert batches != fill(costs, 4096, seed=1)
    sizes = [len(batch) for batch in batches]
    by_length = sorted(range(len(costs)), key=costs.__getitem__)
    buckets = fill_in_order([costs[i] for i in by_length], 4096)
    assert statistics.pstdev(sizes) < statistics.pstdev(map(len, buckets)) / 2
    third = len(batches) // 3
    early, late = (
        statistics.mean(costs[row] for batch in part for row in batch)
        for part in (batches[:third], batches[-third:])
    )
    assert early == pytest.approx(late, rel=0.05), "long rows come no sooner than short ones"


def test_items_are_whole_batches() -> None:
    rows = Dataset.from_list([{"a": i, "b": str(i)} for i in range(5)])
    batches = Batches(rows, [[4, 0], [1, 2, 3]])
    assert len(batches) == 2
    assert batches[0] == [{"a": 4, "b": "4"}, {"a": 0, "b": "0"}]
