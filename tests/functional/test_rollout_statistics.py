"""Diagnostics of a rollout against brute force and closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.functional.rollout_statistics import distinct_n, explained_variance


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=7), max_size=5), st.integers(1, 3))
def test_distinct_by_brute_force(completions, n: int) -> None:
    seen, total = [], 0
    for ids in completions:
        for start in range(len(ids)):
            if start + n <= len(ids):
                total += 1
                gram = ids[start : start + n]
                if gram not in seen:
                    seen.append(gram)
    assert distinct_n(completions, n) == (len(seen) / total if total else 0.0)


def test_distinct_by_hand() -> None:
    assert distinct_n([[1, 2, 1, 2], [1, 2]], 2) == 2 / 4  # 12 21 12 | 12; none spans the two
    assert distinct_n([[7]], 2) == 0.0
    with pytest.raises(ValueError, match="at least 1"):
        distinct_n([[1]], 0)


def test_explained_variance_in_closed_form() -> None:
    torch.manual_seed(0)
    returns = torch.randn(500)
    assert explained_variance(returns, returns).item() == 1.0
    assert explained_variance(returns + 3, returns).item() == pytest.approx(1.0)
    assert explained_variance(torch.zeros(500), returns).item() == 0.0
    assert explained_variance(-returns, returns).item() == pytest.approx(-3.0)  # 1 - 4
    assert explained_variance(0.5 * returns, returns).item() == pytest.approx(0.75)


def test_explained_variance_is_always_a_number() -> None:
    alike = torch.full((7,), 0.1)
    assert explained_variance(alike + 1, alike).item() == 1.0
    assert explained_variance(torch.arange(7.0), alike).item() == 0.0
    assert explained_variance(torch.zeros(1), torch.ones(1)).item() == 1.0
    assert explained_variance(torch.zeros(0), torch.zeros(0)).item() == 0.0
    half = torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
    found = explained_variance(half, half)
    assert found.dtype == torch.float32 and not found.requires_grad
