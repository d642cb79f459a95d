"""Running figures against brute force and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.functional.running import (
    AdaptiveKL,
    RunningMoments,
    distinct_n,
    explained_variance,
)

NUMBERS = st.floats(-1e4, 1e4, width=32)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(NUMBERS, max_size=6), min_size=1, max_size=8), st.randoms())
def test_moments_do_not_depend_on_order_or_batches(batches, random) -> None:
    values = [value for batch in batches for value in batch]
    shuffled = random.sample(values, len(values))
    moments, others = RunningMoments(), RunningMoments()
    for batch in batches:
        moments.update(torch.tensor(batch))
    for value in shuffled:
        others.update(torch.tensor(value))
    whole = torch.tensor(values, dtype=torch.float64)
    for found in (moments, others):
        assert found.count == len(values)
        if values:
            assert found.mean == pytest.approx(whole.mean().item(), abs=1e-8, rel=1e-9)
        if len(values) > 1:
            assert found.variance == pytest.approx(whole.var().item(), abs=1e-8, rel=1e-9)
            assert found.std == math.sqrt(found.variance)


def test_moments_survive_a_large_offset_a_merge_and_a_checkpoint(tmp_path) -> None:
    """Sums of squares in fp32 would lose this variance altogether."""
    values = torch.tensor([1e8 + i for i in range(100)], dtype=torch.float64)
    left, right = RunningMoments(), RunningMoments()
    left.update(values[:30].reshape(5, 6))
    right.update(values[30:])
    left.merge(right.count, right.mean, right.m2)
    assert left.variance == pytest.approx(values.var().item(), rel=1e-9)
    torch.save(left.state_dict(), tmp_path / "state.pt")
    again = RunningMoments()
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (again.count, again.mean, again.m2) == (left.count, left.mean, left.m2)


def test_moments_of_nothing_and_of_one() -> None:
    moments = RunningMoments()
    moments.update(torch.zeros(0))
    assert (moments.count, moments.mean, moments.variance, moments.std) == (0, 0, 0, 0)
    moments.update(torch.tensor(3.0))
    assert (moments.count, moments.mean, moments.variance) == (1, 3, 0)


@pytest.mark.parametrize(
    ("kl", "error"), [(6.0, 0.0), (6.6, 0.1), (60.0, 0.2), (5.4, -0.1), (0.0, -0.2), (-3.0, -0.2)]
)
def test_adaptive_kl_in_closed_form(kl: float, error: float) -> None:
    control = AdaptiveKL(target=6.0, horizon=1000, coef=0.1)
    for _ in range(3):
        control.update(kl, n=64)
    assert control.coef == pytest.approx(0.1 * (1 + error * 0.064) ** 3)


def test_adaptive_kl_holds_its_target() -> None:
    """A policy whose KL is 1 / coef settles where coef is 1 / target."""
    control = AdaptiveKL(target=4.0, horizon=200, coef=5.0)
    for _ in range(600):
        control.update(1 / control.coef, n=20)
    assert control.coef == pytest.approx(0.25, rel=1e-3)
    again = AdaptiveKL(target=4.0, horizon=200)
    again.load_state_dict(control.state_dict())
    assert again.coef == control.coef


def test_adaptive_kl_stays_above_zero() -> None:
    control = AdaptiveKL(target=6.0, horizon=10, coef=0.1)
    control.update(math.nan, n=10)
    assert control.coef == 0.1
    control.update(-100.0, n=10_000)
    assert control.coef == pytest.approx(0.08)
    for wrong in ({"target": 0.0}, {"target": 1.0, "horizon": -1}, {"target": 1.0, "coef": 0.0}):
        with pytest.raises(ValueError, match="above 0"):
            AdaptiveKL(**wrong)


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
