"""Pair losses: closed forms and gradients (recorded numbers: test_golden.py)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.functional import divergences, dpo
from lightning_rlhf.functional.divergences import AlphaDivergence
from lightning_rlhf.functional.pairs import (
    PairLogprobs,
    PairLoss,
    completion_sums,
    preference_loss,
    reward_metrics,
)

PER_PAIR = [
    dpo.dpo_loss, dpo.hinge_loss, dpo.ipo_loss, dpo.exo_pair_loss, dpo.nca_pair_loss,
    dpo.robust_loss, dpo.bco_pair_loss, dpo.sppo_hard_loss, dpo.apo_zero_loss, dpo.apo_down_loss,
    dpo.discopop_loss, dpo.sigmoid_norm_loss, dpo.simpo_loss, dpo.orpo_loss,
]  # fmt: skip


def some_pairs(n: int = 4, seed: int = 0, same: bool = False) -> PairLogprobs:
    g = torch.Generator().manual_seed(seed)
    c, r, rc, rr = (-10 * torch.rand(4, n, generator=g, dtype=torch.float64) - 0.5).unbind()
    lengths = torch.randint(1, 9, (2, n), generator=g)
    return PairLogprobs(c, r, c if same else rc, r if same else rr, *lengths.unbind())


def test_dpo_at_the_reference_is_ln_2() -> None:
    assert dpo.dpo_loss(some_pairs(same=True), 0.1).mean().item() == pytest.approx(
        math.log(2), abs=1e-6
    )


def test_one_pair_by_hand() -> None:
    one = lambda x: torch.tensor([x], dtype=torch.float64)  # noqa: E731
    pairs = PairLogprobs(one(-2.0), one(-5.0), one(-3.0), one(-4.0), one(2.0), one(4.0))
    # D_c = 1, D_r = -1, d = 2; b = 0.5
    s = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    by_hand = {
        dpo.dpo_loss: -math.log(s(1)),
        dpo.hinge_loss: 0.0,
        dpo.ipo_loss: (1 / 2 + 1 / 4 - 1) ** 2,
        dpo.nca_pair_loss: -math.log(s(0.5)) - 0.5 * (math.log(s(-0.5)) + math.log(s(0.5))),
        dpo.bco_pair_loss: -2 * math.log(s(0.5)),
        dpo.sppo_hard_loss: 0.0,
        dpo.apo_zero_loss: 1 - s(0.5) + s(-0.5),
        dpo.apo_down_loss: s(0.5) + 1 - s(1),
        dpo.chosen_nll_loss: 1.0,
        dpo.sigmoid_norm_loss: -math.log(s(0.5 * 0.75)),
        dpo.simpo_loss: -math.log(s(0.5 * (-1 + 1.25) - 0.5)),
    }
    for loss, value in by_hand.items():
        assert loss(pairs, 0.5).item() == pytest.approx(value, abs=1e-12), loss.__name__
    p_c, p_r = math.exp(-1), math.exp(-1.25)
    odds = math.log(p_c / (1 - p_c)) - math.log(p_r / (1 - p_r))
    assert dpo.orpo_loss(pairs, 0.5).item() == pytest.approx(1 - 0.5 * math.log(s(odds)), abs=1e-9)


@pytest.mark.parametrize("loss", PER_PAIR)
def test_a_pair_does_not_feel_its_neighbours(loss: PairLoss) -> None:
    pairs = some_pairs(5)
    whole = loss(pairs, 0.3)
    for i in range(5):
        alone = PairLogprobs(*(field[i : i + 1] for field in pairs[:6]))
        torch.testing.assert_close(loss(alone, 0.3), whole[i : i + 1])


@pytest.mark.parametrize("loss", PER_PAIR)
def test_gradients_are_those_of_the_formula(loss: PairLoss) -> None:
    pairs = some_pairs(3)
    s = torch.cat([pairs.chosen, pairs.rejected]).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: loss(pairs._replace(chosen=x[:3], rejected=x[3:]), 0.3), s
    )


def test_soft_labels_are_cdpo() -> None:
    pairs, p = some_pairs(4), torch.tensor([1.0, 0.7, 0.5, 0.2], dtype=torch.float64)
    mixed = preference_loss(pairs, 0.1, [(1, dpo.dpo_loss)], label=p).value
    x = 0.1 * pairs.delta
    by_hand = -(p * F.logsigmoid(x) + (1 - p) * F.logsigmoid(-x)).mean()
    torch.testing.assert_close(mixed, by_hand)


def test_losses_across_pairs_refuse_soft_labels() -> None:
    with pytest.raises(ValueError, match="aot_loss compares across pairs"):
        preference_loss(some_pairs(2), 0.1, [(1, dpo.aot_loss)], label=torch.tensor([0.5, 1.0]))


def test_alpha_divergence_ends_in_reverse_kl() -> None:
    d = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    assert torch.equal(AlphaDivergence(1.0)(d), d)
    torch.testing.assert_close(AlphaDivergence(1 + 1e-7)(d), d, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(AlphaDivergence(0.0)(d), divergences.forward_kl(d))


@pytest.mark.parametrize(
    "divergence", [divergences.forward_kl, divergences.jensen_shannon, AlphaDivergence(0.5)]
)
def test_divergences_agree_to_first_order_and_stay_finite(
    divergence: divergences.Divergence,
) -> None:
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(divergence(zero).sum(), zero)
    assert divergence(zero).item() == 0
    assert slope.item() == pytest.approx(0.5 if divergence is divergences.jensen_shannon else 1.0)
    assert torch.isfinite(divergence(torch.tensor([-1e4, 1e4]))).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=8), st.floats(0, 1), st.integers(0, 99))
def test_completion_sums_against_a_double_loop(lengths: list[int], alpha: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logprobs = torch.randn(sum(lengths), generator=g, dtype=torch.float64)
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    short = torch.randint(1, 7, (len(lengths),), generator=g)
    wanted = [
        sum(float(lp) * (1.0 if t < s else alpha) for t, lp in enumerate(part))
        for part, s in zip(logprobs.split(lengths), short, strict=True)
    ]
    found = completion_sums(logprobs, sequence, len(lengths), short, alpha)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_a_tie_counts_as_wrong() -> None:
    pairs = some_pairs(4, same=True)
    assert reward_metrics(pairs, 0.1)["rewards/accuracies"] == 0


@pytest.mark.parametrize(("loss", "e"), [(dpo.exo_pair_loss, 0.0), (dpo.robust_loss, 0.5)])
def test_label_smoothing_out_of_range_is_named(loss: PairLoss, e: float) -> None:
    with pytest.raises(ValueError, match=f"got {e}"):
        loss(some_pairs(), 0.1, label_smoothing=e)
