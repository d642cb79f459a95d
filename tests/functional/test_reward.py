"""Reward losses against definitions written out in loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.functional import reward

SCORES = torch.tensor([0.3, -1.2, 2.0, 0.7, 0.1], dtype=torch.float64)


def nll(x: float) -> float:
    return math.log1p(math.exp(-x))


def test_bradley_terry_with_margin_and_centering_by_hand() -> None:
    chosen, rejected, margin = SCORES[:2], SCORES[2:4], torch.tensor([0.5, 0.0])
    loss = reward.reward_loss(chosen, rejected, margin, centering=0.1)
    pairs = list(zip(chosen.tolist(), rejected.tolist(), margin.tolist(), strict=True))
    by_hand = sum(nll(c - r - m) + 0.1 * (c + r) ** 2 for c, r, m in pairs) / 2
    assert loss.value.item() == pytest.approx(by_hand, abs=1e-12)
    assert loss.metrics["rewards/accuracies"] == 0
    assert loss.metrics["rewards/margins"].item() == pytest.approx((chosen - rejected).mean())


def test_soft_labels_are_binary_cross_entropy() -> None:
    p, x = 0.8, 0.3 - 2.0
    loss = reward.reward_loss(SCORES[:1], SCORES[2:3], label=torch.tensor([p], dtype=torch.float64))
    assert loss.value.item() == pytest.approx(p * nll(x) + (1 - p) * nll(-x), abs=1e-12)


def test_a_soft_label_wants_its_log_odds() -> None:
    """Label noise e caps the best margin at logit(1 - e)."""
    margin = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0.9], dtype=torch.float64)
    optimizer = torch.optim.LBFGS([margin], max_iter=100, tolerance_grad=1e-10)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = reward.reward_loss(margin, torch.zeros(1, dtype=torch.float64), label=label).value
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    assert margin.item() == pytest.approx(math.log(0.9 / 0.1), abs=1e-4)


rankings = st.lists(
    st.lists(st.integers(0, 3), min_size=2, max_size=5), min_size=1, max_size=4
).filter(lambda groups: any(len(set(ranks)) > 1 for ranks in groups))


@settings(max_examples=40, deadline=None)
@given(rankings, st.integers(0, 99))
def test_rankings_against_loops_over_pairs(groups: list[list[int]], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    rank = torch.tensor([r for ranks in groups for r in ranks])
    group = torch.tensor([i for i, ranks in enumerate(groups) for _ in ranks])
    scores = torch.randn(len(rank), generator=g, dtype=torch.float64)
    means, start = [], 0
    for ranks in groups:
        s = scores[start : start + len(ranks)].tolist()
        pairs = [
            nll(s[a] - s[b])
            for a, b in itertools.permutations(range(len(ranks)), 2)
            if ranks[a] < ranks[b]
        ]
        means += [sum(pairs) / len(pairs)] if pairs else []
        start += len(ranks)
    found = reward.ranking_loss(scores, group, rank).value
    assert found.item() == pytest.approx(sum(means) / len(means), abs=1e-9)


def test_two_ranked_completions_are_a_pair() -> None:
    group, rank = torch.tensor([0, 0]), torch.tensor([1, 0])
    pair = reward.reward_loss(SCORES[1:2], SCORES[:1]).value
    torch.testing.assert_close(reward.ranking_loss(SCORES[:2], group, rank).value, pair)
    torch.testing.assert_close(reward.plackett_luce_loss(SCORES[:2], group, rank).value, pair)


def test_plackett_luce_is_the_probability_of_the_order() -> None:
    """Over all orders of three the probabilities sum to 1, and each is a product of softmaxes."""
    group, total = torch.zeros(3, dtype=torch.long), 0.0
    for order in itertools.permutations(range(3)):
        rank = torch.tensor([order.index(i) for i in range(3)])
        value = reward.plackett_luce_loss(SCORES[:3], group, rank).value
        weights = [math.exp(SCORES[i]) for i in order]
        by_hand = math.prod(w / sum(weights[k:]) for k, w in enumerate(weights))
        assert math.exp(-value) == pytest.approx(by_hand)
        total += by_hand
    assert total == pytest.approx(1)


def test_all_ties_teach_nothing_to_pairs() -> None:
    group, rank = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1])
    torch.testing.assert_close(
        reward.ranking_loss(SCORES[:4], group, rank).value,
        reward.reward_loss(SCORES[2:3], SCORES[3:4]).value,
    )


def test_rating_is_squared_error() -> None:
    rating = torch.tensor([1.0, -1.0], dtype=torch.float64)
    by_hand = ((0.3 - 1) ** 2 + (-1.2 + 1) ** 2) / 2
    assert reward.rating_loss(SCORES[:2], rating).value.item() == pytest.approx(by_hand)
