"""PPO's losses in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.functional.ppo import (
    policy_loss,
    ppo_loss,
    token_kl,
    token_rewards,
    value_loss,
)


def of_ratio(ratio: float, advantage: float, dual: float | None = None) -> tuple[float, float]:
    """Compute the loss of one token, and its gradient with respect to the log-prob."""
    new = torch.tensor([math.log(ratio)], requires_grad=True)
    loss = policy_loss(new, torch.zeros(1), torch.tensor([advantage]), 0.2, dual)
    loss.value.backward()
    assert new.grad is not None
    return loss.value.item(), new.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.1, 2.0, -2.2, -2.2),  # within: the gradient is -A r
        (1.5, 2.0, -2.4, 0.0),  # good, and clipped
        (0.5, 2.0, -1.0, -1.0),  # good, and less likely: pulled back
        (0.5, -2.0, 1.6, 0.0),  # bad, and clipped
        (1.5, -2.0, 3.0, 3.0),  # bad, and more likely: pushed away
    ],
)
def test_the_clip(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    assert of_ratio(ratio, advantage) == pytest.approx((loss, gradient))


def test_the_dual_clip_bounds_the_loss_of_a_bad_token() -> None:
    assert of_ratio(9.0, -2.0) == pytest.approx((18.0, 18.0))
    assert of_ratio(9.0, -2.0, dual=3.0) == pytest.approx((6.0, 0.0))
    assert of_ratio(9.0, 2.0, dual=3.0) == of_ratio(9.0, 2.0)


def test_metrics_of_ratios() -> None:
    new, old = torch.tensor([0.1, -0.3]), torch.zeros(2)
    metrics = policy_loss(new, old, torch.tensor([1.0, -1.0]), 0.2).metrics
    ratio = new.exp()
    assert metrics["policy/approxkl"] == pytest.approx(0.5 * (0.01 + 0.09) / 2)
    assert metrics["policy/clipfrac"] == 0.5
    assert metrics["policy/ratio"] == pytest.approx(ratio.mean().item())
    assert metrics["policy/ratio_error"] == pytest.approx(1 - math.exp(-0.3))


def test_values_are_clipped_around_the_old_ones() -> None:
    old, returns = torch.zeros(3), torch.tensor([1.0, 1.0, 1.0])
    values = torch.tensor([0.1, 0.9, -0.5], requires_grad=True)
    loss = value_loss(values, old, returns, 0.2)
    wanted = 0.5 * torch.tensor([0.9**2, 0.8**2, 1.5**2])  # clipped at 0.2; the larger is taken
    assert loss.value.item() == pytest.approx(wanted.mean().item())
    loss.value.backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.tensor([-0.9, 0.0, -1.5]) / 3)
    whole = ppo_loss(policy_loss(old, old, old + 1, 0.2), loss, 0.1)
    assert whole.value.item() == pytest.approx(-1 + 0.1 * loss.value.item())


@given(st.lists(st.floats(-5, 0), min_size=1, max_size=8), st.integers(0, 99))
def test_kl_estimators(logprobs: list[float], seed: int) -> None:
    policy = torch.tensor(logprobs, dtype=torch.float64)
    noise = torch.randn(len(policy), generator=torch.Generator().manual_seed(seed)).double()
    reference = policy + noise
    assert torch.equal(token_kl(policy, reference), policy - reference)
    assert (token_kl(policy, reference, "k3") >= 0).all()
    assert not token_kl(policy, policy, "k3").any()


def test_both_estimators_expect_the_kl() -> None:
    """Enumerate a distribution over five tokens."""
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 5, generator=generator, dtype=torch.float64).log_softmax(1)
    truth = (p.exp() * (p - q)).sum()
    for estimator in ("k1", "k3"):
        torch.testing.assert_close((p.exp() * token_kl(p, q, estimator)).sum(), truth)


def test_the_score_is_added_at_its_column() -> None:
    kl = torch.tensor([[0.5, 0.25, 0.0], [1.0, 0.0, 0.0]])
    found = token_rewards(kl, torch.tensor([2.0, 3.0]), torch.tensor([1, 0]), 0.1)
    torch.testing.assert_close(found, torch.tensor([[-0.05, 1.975, 0.0], [2.9, 0.0, 0.0]]))
