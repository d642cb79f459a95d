"""Rows cut by a budget."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.batches import cut_by_budget


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 20), max_size=40), st.integers(1, 30))
def test_a_cut_is_the_greedy_one(costs: list[int], budget: int) -> None:
    """Every row once, in order; a run ends only where the next row would not fit."""
    runs = cut_by_budget(costs, budget)
    assert [row for run in runs for row in run] == list(range(len(costs)))
    sums = [sum(costs[row] for row in run) for run in runs]
    assert all(total <= budget or len(run) == 1 for total, run in zip(sums, runs, strict=True))
    for total, after in zip(sums, runs[1:], strict=False):
        assert total + costs[after.start] > budget
