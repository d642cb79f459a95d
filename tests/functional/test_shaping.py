"""Reward shaping by hand, and its running state against brute force and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.functional.shaping import AdaptiveKL, RewardShaper, RunningMoments, Shaping

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
    """Sums of squares in fp32 would lose this variance entirely."""
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


def test_moments_of_no_value_and_of_one() -> None:
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


SCORES = torch.tensor([0.0, 2.0, 4.0, 10.0])
ALL_FINISHED = torch.ones(4, dtype=torch.bool)
PLAIN = Shaping(missing_eos_penalty=0.0)


def test_scores_stay_as_they_are_unless_asked() -> None:
    assert torch.equal(RewardShaper(PLAIN).shape(SCORES, ALL_FINISHED), SCORES)


def test_the_first_rollout_centers_all() -> None:
    shaper = RewardShaper(Shaping(center=True, missing_eos_penalty=0.0))
    assert shaper.shape(SCORES, ALL_FINISHED).tolist() == [-4.0, -2.0, 0.0, 6.0]
    assert shaper.shape(SCORES + 1, ALL_FINISHED).tolist() == [-3.0, -1.0, 1.0, 7.0]
    assert shaper.center == 4.0


def test_scores_are_clipped_after_they_are_normalized() -> None:
    """The deviation of 0, 2, 4 and 10 is sqrt(56 / 3) = 4.32: only 10 is clipped."""
    shaper = RewardShaper(Shaping(normalize=True, clip=1.0, missing_eos_penalty=0.0))
    shaped = shaper.shape(SCORES, ALL_FINISHED)
    deviation = (56 / 3) ** 0.5
    assert shaped.tolist() == pytest.approx([0.0, 2 / deviation, 4 / deviation, 1.0], abs=1e-6)


def test_normalization_runs_over_all_rollouts() -> None:
    shaper = RewardShaper(Shaping(normalize=True, missing_eos_penalty=0.0))
    shaper.shape(torch.tensor([1.0, 3.0]), ALL_FINISHED[:2])
    shaped = shaper.shape(torch.tensor([5.0, 7.0]), ALL_FINISHED[:2])
    deviation = (20 / 3) ** 0.5  # of 1, 3, 5 and 7
    assert shaped.tolist() == pytest.approx([5 / deviation, 7 / deviation], rel=1e-6)


def test_a_completion_without_end_is_penalized_after_the_clip() -> None:
    shaper = RewardShaper(Shaping(clip=1.0, missing_eos_penalty=2.0))
    finished = torch.tensor([True, True, False, False])
    assert shaper.shape(SCORES, finished).tolist() == [0.0, 1.0, -1.0, -1.0]


def test_a_fixed_coefficient_stays() -> None:
    shaper = RewardShaper(Shaping(kl_coef=0.1))
    shaper.update_kl(torch.full((8,), 50.0))
    assert shaper.kl_coef == 0.1
    assert RewardShaper(Shaping(kl_coef=0.0)).kl_coef == 0.0


def test_the_coefficient_follows_the_mean_kl_of_a_rollout() -> None:
    """A KL 10 % above the target, over 8 of 16 completions: 5 % up; far below it: 10 % down."""
    shaper = RewardShaper(Shaping(kl_coef=0.1, kl_target=5.0, kl_horizon=16))
    shaper.update_kl(torch.tensor([5.0, 6.0] * 4))
    assert shaper.kl_coef == pytest.approx(0.1 * 1.05)
    shaper.update_kl(torch.zeros(8))
    assert shaper.kl_coef == pytest.approx(0.1 * 1.05 * 0.9)


def test_a_restored_shaper_continues_exactly(tmp_path) -> None:
    generator = torch.Generator().manual_seed(0)
    shaping = Shaping(0.1, 2.0, 40, center=True, normalize=True, clip=1.5)
    whole, restored = RewardShaper(shaping), RewardShaper(shaping)
    for rollout in range(6):
        scores = 3 * torch.randn(5, generator=generator) + rollout
        finished = torch.rand(5, generator=generator) < 0.5
        kl = 4 * torch.rand(5, generator=generator)
        shaped = whole.shape(scores, finished)
        assert torch.equal(restored.shape(scores, finished), shaped)
        whole.update_kl(kl)
        restored.update_kl(kl)
        assert restored.kl_coef == whole.kl_coef
        torch.save(restored.state_dict(), tmp_path / "state.pt")
        restored = RewardShaper(shaping)
        restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
